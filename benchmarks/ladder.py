"""The demo's ladder over several seeds: what each stage does to its measure, and how much that varies.

Starts from a pretrained model (a folder of `intro2llm demo`, or of a run like it) and runs SFT, DPO, GRPO
and PPO once for each seed, as the demo does.

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

AIMS: Mapping[str, tuple[str, float]] = {
    "sft": ("after", 0.6),
    "dpo": ("after", 0.9),
    "grpo": ("gain", 0.25),
    "ppo": ("gain", 0.2),
}


def run_stages(model: str, seed: int) -> dict[str, dict[str, float]]:
    """Runs the stages once."""
    folder = Path(tempfile.mkdtemp(prefix=f"ladder-{seed}-"))
    found = {}
    for stage in ladder.demo_stages(folder, seed=seed, compile=True):
        if stage.name == "sft":
            stage = stage._replace(options=replace(stage.options, model_path=model))
        begun = time.monotonic()
        result = ladder.run_stage(stage, train, folder / "ladder.json")
        assert result is not None
        found[stage.name] = {**result, "seconds": time.monotonic() - begun}
    return found


def main() -> None:
    """Prints one line a stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    every = [run_stages(arguments.model, seed) for seed in range(arguments.seeds)]
    print(
        f"\n{'stage':<5} {'before':>20} {'after':>20} {'gain':>20}  aim (mean; lowest to highest of "
        f"{len(every)} seeds)"
    )
    for name, (what, aim) in AIMS.items():
        rows = [{**run[name], "gain": run[name]["after"] - run[name]["before"]} for run in every]
        cells = [_span([row[column] for row in rows]) for column in ("before", "after", "gain")]
        reached = "reached" if min(row[what] for row in rows) >= aim else "MISSED"
        print(
            f"{name:<5} " + " ".join(f"{cell:>20}" for cell in cells) + f"  {what} at least {aim}: {reached}"
        )
    far = max(run["grpo"]["kl"] for run in every)
    print(f"GRPO's divergence from its start: at most {far:.3f} nats a token (bound {ladder.KL_BOUND})")
    for name in AIMS:
        print(f"{name}: {statistics.mean(run[name]['seconds'] for run in every):.0f} s")


def _span(values: list[float]) -> str:
    """ "mean (lowest-highest)"."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
