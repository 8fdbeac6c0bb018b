"""Gain of each of the demo's stages (SFT, DPO, GRPO, PPO) over several seeds.

Start from a pretrained model (the folder that `intro2llm demo` or a similar run wrote), and run the stages as
the demo does, once for each seed.

    python benchmarks/ladder.py MODEL [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stages.cli import ladder
from stages.run.train import train

TARGETS: Mapping[str, tuple[str, float]] = {
    "sft": ("after", 0.6),
    "dpo": ("after", 0.9),
    "grpo": ("gain", 0.25),
    "ppo": ("gain", 0.2),
}
"""Stage -> (figure, its lowest value over the seeds that counts as reached)."""


def run_stages(model: str, seed: int) -> dict[str, dict[str, float]]:
    """Run and evaluate all stages with one seed; return the figures of each, with its seconds."""
    folder = Path(tempfile.mkdtemp(prefix=f"ladder-{seed}-"))
    results = {}
    for stage in ladder.demo_stages(folder, seed=seed, compile=True):
        if stage.name == "sft":
            stage = stage._replace(options=replace(stage.options, model_path=model))
        start = time.monotonic()
        result = ladder.run_stage(stage, train, folder / "ladder.json")
        if isinstance(result, int):
            raise SystemExit(f"{stage.name}: interrupted by signal {result}; run it again")
        results[stage.name] = {**result, "seconds": time.monotonic() - start}
    return results


def main() -> None:
    """Print one line per stage: its figures before and after, and whether it reached its target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of the pretrained model")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    arguments = parser.parse_args()
    runs = [run_stages(arguments.model, seed) for seed in range(arguments.seeds)]
    columns = f"{'before':>20} {'after':>20} {'gain':>20}"
    print(f"\n{'stage':<5} {columns}  target (mean; lowest to highest of {len(runs)} seeds)")
    for name, (figure, target) in TARGETS.items():
        rows = [{**run[name], "gain": run[name]["after"] - run[name]["before"]} for run in runs]
        cells = [_format_range([row[column] for row in rows]) for column in ("before", "after", "gain")]
        verdict = "reached" if min(row[figure] for row in rows) >= target else "MISSED"
        line = " ".join(f"{cell:>20}" for cell in cells)
        print(f"{name:<5} {line}  {figure} at least {target}: {verdict}")
    kl = max(run["grpo"]["kl"] for run in runs)
    print(f"GRPO's KL from its initial model: at most {kl:.3f} nats a token (bound {ladder.KL_BOUND})")
    for name in TARGETS:
        print(f"{name}: {statistics.mean(run[name]['seconds'] for run in runs):.0f} s")


def _format_range(values: list[float]) -> str:
    """Format values as "mean (lowest-highest)"."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
