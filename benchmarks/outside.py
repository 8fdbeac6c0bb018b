"""Counts the forms from outside that are right, refused, and silently different: `python
benchmarks/outside.py`.

Each form of `tests/outside` is written by the other library and read by ours. "different" must be 0.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.outside.form import OUTCOMES, judge
from tests.outside.table import every


def main() -> int:
    """Prints the counts of each kind, and what is neither right nor refused.

    Returns:
        1 if any form is different or an error.
    """
    counts: dict[str, Counter] = {}
    for form in every():
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(form, Path(folder))
        counts.setdefault(form.kind, Counter())[verdict.outcome] += 1
        if verdict.outcome in OUTCOMES[2:]:
            print(f"{verdict.outcome}: {form.kind}: {form.name}: {verdict.detail}")
    total = sum(counts.values(), Counter())
    print(f"{'kind':<16}{'forms':>8}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES))
    for kind, found in [*sorted(counts.items()), ("all", total)]:
        print(f"{kind:<16}{found.total():>8}" + "".join(f"{found[outcome]:>12}" for outcome in OUTCOMES))
    return int(any(total[outcome] for outcome in OUTCOMES[2:]))


if __name__ == "__main__":
    sys.exit(main())
