"""`intro2llm replay`: computes one step of a past run again, and compares every bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from stages.state import TrainState


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Repeating a step of a past run."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    step: int
    """The step to compute again, from 1."""


def main(arguments: Sequence[str]) -> int:
    """Finds the newest checkpoint before the step, goes on from there, compares; 0 if every bit is equal."""
    options = tyro.cli(ReplayOptions, prog="intro2llm replay", args=list(arguments))
    from stages.run.log import read_lines

    folder = Path(options.run)
    state = recompute(folder, options.step)
    logged = [row for row in read_lines(folder / "metrics.jsonl") if row["step"] == options.step and "loss" in row]
    if not logged:
        raise ValueError(f"{folder / 'metrics.jsonl'} has no step {options.step}; its steps begin at 1")
    differences = [*metric_differences(state, logged[-1]), *state_differences(state, folder, options.step)]
    for line in differences:
        print(line)
    if differences:
        print(f"step {options.step}: {len(differences)} differences; was it another machine, torch or thread count?")
        return 1
    print(f"step {options.step}: equal, bit for bit")
    return 0


def recompute(folder: Path, step: int) -> TrainState:
    """Runs the stage from the newest checkpoint before `step` (or the start) up to it.

    Raises:
        ValueError: if the run has no such step.
    """
    from pure.transform.jit import jit
    from stages.cli.pretrain import read_options
    from stages.run import checkpoint, compiler, pretraining

    options = read_options(folder)
    experiment = pretraining.build(options, pretraining.prepare(options))
    if not 1 <= step <= len(experiment.pipe):
        raise ValueError(f"--step {step}: the run has steps 1 to {len(experiment.pipe)}")
    state = experiment.stage.init(experiment.key, starting_params(options.model_path))
    before = [path for path in checkpoint.saved(folder) if checkpoint.step_of(path) < step]
    if before:
        state = checkpoint.load(before[-1], state).state
    first = int(state.step)
    print(f"from step {first}: computing {step - first} again")
    compiled = options.compile and (experiment.key.device.type != "cpu" or compiler.missing() is None)
    advance = jit(experiment.stage.step, donate=True, regions=True) if compiled else experiment.stage.step
    for batch in experiment.pipe[first:step]:
        state = advance(state, batch)
    return state


def starting_params(model_path: str | None) -> Any:
    """The weights that the run began with, or None if it drew them."""
    from stages.run import pretrained

    return pretrained.load(model_path).params if model_path else None


def metric_differences(state: TrainState, row: dict[str, Any]) -> list[str]:
    """Metrics of the recomputed step that are not those in the log."""
    pairs = [(name, float(value), float(row[name])) for name, value in state.metrics.items()]
    return [f"{name}: {old!r} in the log, {new!r} now" for name, new, old in pairs if new != old and new == new]


def state_differences(state: TrainState, folder: Path, step: int) -> list[str]:
    """Leaves that are not those of the checkpoint of that step, if there is one."""
    from pure import tree
    from stages.run import checkpoint

    if step not in [checkpoint.step_of(path) for path in checkpoint.saved(folder)]:
        return []
    saved = checkpoint.load(folder, state, step=step).state
    triples = zip(tree.paths(state), tree.leaves(state), tree.leaves(saved), strict=True)
    return [f"{path}: other bits than in the checkpoint" for path, new, old in triples if not _same(new, old)]


def _same(a: Any, b: Any) -> bool:
    """Equal bits, NaN included."""
    return a.cpu().contiguous().numpy(force=True).tobytes() == b.cpu().contiguous().numpy(force=True).tobytes()
