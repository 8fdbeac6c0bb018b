"""Cold compilation of the pretraining step, 6 layers and 24: ours against transformers' Llama.

Each side compiles in a new process with an empty cache folder; the compile time is the time of the first step
minus that of the second.

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


def compile_seconds(side: str, layers: int) -> float:
    """Seconds that compilation takes in a new process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        program = PROGRAM.format(folder=os.path.dirname(os.path.abspath(__file__)), side=side, layers=layers)
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
    return float(run.stdout.split()[-1])


def main() -> None:
    """Print the medians, their ratios, and whether each ratio reached its target."""
    arguments = _timing.make_parser(__doc__, pairs=1).parse_args()
    cases = (("our", 6), ("peer", 6), ("our", 24))
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(arguments.pairs):
        for case in cases:
            times[case].append(compile_seconds(*case))
    ours, peer, ours_24 = (statistics.median(times[case]) for case in cases)
    verdict = "reached" if peer >= ours else "MISSED"
    ratio = f"peer/ours {peer / ours:.2f} (target 1.00): {verdict}"
    print(f"cold compilation, 6 layers: ours {ours:.1f} s, peer {peer:.1f} s, {ratio}")
    verdict = "reached" if ours_24 <= 1.5 * ours else "MISSED"
    print(f"24 layers: ours {ours_24:.1f} s, {ours_24 / ours:.2f} of 6 layers (at most 1.50): {verdict}")


if __name__ == "__main__":
    main()
