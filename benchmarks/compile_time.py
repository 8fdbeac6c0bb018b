"""Seconds to compile the pretraining step from cold, 6 layers and 24, beside transformers' Llama from cold.

Each side compiles in a fresh process with an empty cache folder; the first step is timed, less the time of a
second.

    python benchmarks/compile_time.py [--pairs N]     (a pair takes minutes: 1 by default)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

import _timing

PROGRAM = """
import sys, time
sys.path.insert(0, {folder!r})
import pretraining
step = pretraining.{side}_step({layers})
start = time.perf_counter(); step(); first = time.perf_counter() - start
start = time.perf_counter(); step(); print(first - (time.perf_counter() - start))
"""


def cold(side: str, layers: int) -> float:
    """Seconds that compiling takes in a fresh process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        program = PROGRAM.format(folder=os.path.dirname(os.path.abspath(__file__)), side=side, layers=layers)
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
    return float(run.stdout.split()[-1])


def main() -> None:
    """Prints the table."""
    arguments = _timing.parser(__doc__, pairs=1).parse_args()
    cases = (("our", 6), ("peer", 6), ("our", 24))
    taken: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(arguments.pairs):
        for case in cases:
            taken[case].append(cold(*case))
    ours, peer, deep = (statistics.median(taken[case]) for case in cases)
    print(
        f"cold compilation, 6 layers: ours {ours:.1f} s, peer {peer:.1f} s, peer/ours {peer / ours:.2f} (reach 1.00): "
        f"{'reached' if peer >= ours else 'MISSED'}"
    )
    print(
        f"24 layers: ours {deep:.1f} s, {deep / ours:.2f} of 6 layers (at most 1.50): "
        f"{'reached' if deep <= 1.5 * ours else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
