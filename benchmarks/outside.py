"""Count the forms of other libraries that are read right, refused, or silently different.

    python benchmarks/outside.py

A form (`tests/outside/form.py`) is something that another library writes: a template, a tokenizer, a
checkpoint, a row. Each is written by that library and read by ours. The columns "different" and "error" must
be 0.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.outside.form import OUTCOMES, judge
from tests.outside.table import all_forms


def main() -> int:
    """Print the counts of each kind, and every form that is neither right nor refused.

    Returns:
        1 if any form is different or an error.
    """
    counts: dict[str, Counter] = {}
    for form in all_forms():
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(form, Path(folder))
        counts.setdefault(form.kind, Counter())[verdict.outcome] += 1
        if verdict.outcome in OUTCOMES[2:]:
            print(f"{verdict.outcome}: {form.kind}: {form.name}: {verdict.detail}")
    total = sum(counts.values(), Counter())
    print(f"{'kind':<16}{'forms':>8}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES))
    for kind, counter in [*sorted(counts.items()), ("all", total)]:
        cells = "".join(f"{counter[outcome]:>12}" for outcome in OUTCOMES)
        print(f"{kind:<16}{counter.total():>8}{cells}")
    return int(any(total[outcome] for outcome in OUTCOMES[2:]))


if __name__ == "__main__":
    sys.exit(main())
