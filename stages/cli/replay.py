"""`intro2llm replay`: computes one step of a past run again, and compares every bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from stages.state import TrainState


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Compute one step of a past run again, and compare every bit."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    step: int
    """Number of the step to recompute, from 1."""


def run(options: ReplayOptions) -> int:
    """Finds the newest checkpoint before the step, goes on from there, compares; 0 if every bit is equal,
    else 1.

    Raises:
        ValueError: if the run has no such step, or its checkpoint is of another run than its config.json
            says.
    """
    from stages.run.log import read_lines

    folder = Path(options.run)
    logged = [row for row in read_lines(folder / "metrics.jsonl") if row["step"] == options.step]
    if not logged:
        raise ValueError(f"{folder / 'metrics.jsonl'} has no step {options.step}; it has {_steps(folder)}")
    state = recompute(folder, options.step)
    differences = [*metric_differences(state, logged[-1]), *state_differences(state, folder, options.step)]
    for line in differences:
        print(line)
    if differences:
        print(
            f"step {options.step}: {len(differences)} differences; was it another machine, torch or thread count, "
            f"or did it go on with another --compile or --device?{_otherwise_compiled(folder, options.step)}"
        )
        return 1
    print(f"step {options.step}: equal, bit for bit")
    return 0


def recompute(folder: Path, step: int) -> TrainState:
    """Runs the stage from the newest checkpoint before `step` (or the start) up to it.

    Args:
        folder: of the run.
        step: from 1.

    Returns:
        The state after that step.

    Raises:
        ValueError: if the run has no such step.
    """
    from pure import tree
    from pure.transform.jit import jit
    from stages.checkpoint import checkpoint
    from stages.run import build, compiler
    from stages.run.experiment import fingerprint_of

    options, experiment = build.rebuild(folder)
    if not 1 <= step <= len(experiment.pipe):
        raise ValueError(f"--step {step}: the run has steps 1 to {len(experiment.pipe)}")
    earlier = [path for path in checkpoint.list_saved(folder) if checkpoint.step_of(path) < step]
    device = experiment.key.device
    state = experiment.stage.init(experiment.key, experiment.params)
    if earlier:
        fingerprint = fingerprint_of(experiment)
        state = checkpoint.load(earlier[-1], state, fingerprint=fingerprint, warn=print).state
    first = int(state.step)
    print(f"computing steps {first + 1} to {step} again")
    compiled = options.compile and (device.type != "cpu" or compiler.missing() is None)
    advance = jit(experiment.stage.step, donate=True, regions=True) if compiled else experiment.stage.step
    for batch in experiment.pipe[first:step]:
        state = advance(state, tree.map(lambda x: x.to(device), batch))
    return state


def metric_differences(state: TrainState, row: Mapping[str, Any]) -> list[str]:
    """Metrics of the recomputed step that are not those in the log.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> metric_differences(SimpleNamespace(metrics={"loss": torch.tensor(1.5)}), {"step": 1, "loss": 1.25})
        ['loss: 1.25 in the log, 1.5 now']
    """
    told = []
    for name, value in state.metrics.items():
        new, old = float(value), float(row.get(name, "nan"))
        if name not in row or (new != old and not (new != new and old != old)):
            told.append(f"{name}: {row.get(name, 'nothing')} in the log, {new} now")
    return told


def state_differences(state: TrainState, folder: Path, step: int) -> list[str]:
    """Leaves that are not those of the checkpoint of that step, if there is one."""
    from pure import tree
    from stages.checkpoint import checkpoint

    found = [path for path in checkpoint.list_saved(folder) if checkpoint.step_of(path) == step]
    if not found:
        return []
    saved = checkpoint.load(found[-1], state, warn=print).state
    triples = zip(tree.paths(state), tree.leaves(state), tree.leaves(saved), strict=True)
    return [f"{path}: other bits than in the checkpoint" for path, new, old in triples if not _same(new, old)]


def _otherwise_compiled(folder: Path, step: int) -> str:
    """Says so if the log up to the step and config.json, written again whenever a run goes on, tell different
    things.

    A compiled start leaves `compile_seconds` in its first line; that a later start was eager leaves nothing.
    """
    from stages.run import config_file
    from stages.run.log import read_lines

    seen = [row["step"] for row in read_lines(folder / "metrics.jsonl") if "compile_seconds" in row]
    before = any(number <= step for number in seen)
    flag = bool(config_file.flags(folder).get("compile"))
    if before == flag:
        return ""
    was, now = ("compiled", "--no-compile") if before else ("not compiled", "--compile")
    return f" The log says that it was {was} up to here, config.json has {now}."


def _steps(folder: Path) -> str:
    """Which steps a run's log has."""
    from stages.run.log import read_lines

    steps = [row["step"] for row in read_lines(folder / "metrics.jsonl")]
    return f"steps {min(steps)} to {max(steps)}" if steps else "none"


def _same(a: Any, b: Any) -> bool:
    """Equal bits, NaN included."""
    return a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
