"""`intro2llm replay`: one step of a past run, recomputed and compared bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pure.plural import count_noun
from stages.cli.notice import say_waiting

if TYPE_CHECKING:
    from torch import Tensor

    from stages.state import TrainState


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Recompute one step of a past run, and compare every bit."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    step: int
    """Number of the step to recompute, from 1."""


def run(options: ReplayOptions) -> int:
    """Recomputes the step from the newest checkpoint before it, and compares.

    Returns:
        The exit code: 0 if every bit is equal, else 1.

    Raises:
        ValueError: if the folder is none of a run, the run has no such step, or its checkpoint does not
            belong to its config.json.
    """
    say_waiting(f"reading {options.run}")
    from stages.run import config_file
    from stages.run.log import read_lines

    folder, step = Path(options.run), options.step
    config_file.read_flags(folder)  # refuses a folder that is none of a run
    rows = [row for row in read_lines(folder / "metrics.jsonl") if row["step"] == step]
    if not rows:
        raise ValueError(f"{folder / 'metrics.jsonl'} has no step {step}; it has {_logged_steps(folder)}")
    state = recompute(folder, step)
    differences = [*compare_metrics(state, rows[-1]), *compare_states(state, folder, step)]
    for line in differences:
        print(line)
    if differences:
        print(
            f"step {step}: {count_noun(len(differences), 'difference')}; was it another machine, torch, "
            "number of threads or processes, or was the run resumed with another --backend, --compile or "
            f"--device?{_compare_compiled(folder, step)}"
        )
        return 1
    print(f"step {step}: equal, bit for bit")
    return 0


def recompute(folder: Path, step: int) -> TrainState:
    """Runs the stage from the newest checkpoint before a step, or from the start, up to that step.

    Args:
        folder: the run's folder.
        step: number of the step, from 1.

    Returns:
        The state after that step.

    Raises:
        ValueError: if the run has no such step.
    """
    from pure import tree
    from stages.checkpoint import checkpoint
    from stages.run import build, compiler
    from stages.run.experiment import fingerprint_of
    from stages.run.loop import build_step

    options, experiment = build.rebuild(folder)
    if not 1 <= step <= len(experiment.pipe):
        raise ValueError(f"--step {step}: the run has steps 1 to {len(experiment.pipe)}")
    earlier = [path for path in checkpoint.list_saved(folder) if checkpoint.step_of(path) < step]
    device = experiment.key.device
    state = experiment.stage.init(experiment.key, experiment.params)
    fingerprint = fingerprint_of(experiment)
    if earlier:
        state = checkpoint.load(earlier[-1], state, fingerprint=fingerprint, warn=print).state
    first = int(state.step)
    print(f"computing steps {first + 1} to {step} again")
    compiled = options.compile and (device.type != "cpu" or compiler.missing_tool() is None)
    advance = build_step(experiment.stage, folder, fingerprint, backend=options.backend, compile=compiled)
    for batch in experiment.pipe[first:step]:
        state = advance(state, tree.map(lambda x: x.to(device), batch))
    return state


def compare_metrics(state: TrainState, row: Mapping[str, Any]) -> list[str]:
    """Lists the metrics of the recomputed step that differ from those in the log.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> state = SimpleNamespace(metrics={"loss": torch.tensor(1.5)})
        >>> compare_metrics(state, {"step": 1, "loss": 1.25})
        ['loss: 1.25 in the log, 1.5 now']
    """
    differences = []
    for name, value in state.metrics.items():
        now, logged = float(value), float(row.get(name, "nan"))
        equal = now == logged or (math.isnan(now) and math.isnan(logged))
        if name not in row or not equal:
            differences.append(f"{name}: {row.get(name, 'nothing')} in the log, {now} now")
    return differences


def compare_states(state: TrainState, folder: Path, step: int) -> list[str]:
    """Lists the leaves that differ from the checkpoint of that step, if there is one."""
    from pure import tree
    from stages.checkpoint import checkpoint

    checkpoints = [path for path in checkpoint.list_saved(folder) if checkpoint.step_of(path) == step]
    if not checkpoints:
        return []
    saved = checkpoint.load(checkpoints[-1], state, warn=print).state
    leaves = zip(tree.paths(state), tree.leaves(state), tree.leaves(saved), strict=True)
    return [
        f"{path}: bits differ from the checkpoint's"
        for path, now, then in leaves
        if not _equal_bits(now, then)
    ]


def _compare_compiled(folder: Path, step: int) -> str:
    """Returns a sentence if the log and config.json (rewritten on resuming) disagree on compilation, else "".

    A compiled start logs `compile_seconds` in its first line; a later eager start logs nothing of the kind.
    """
    from stages.run import config_file
    from stages.run.log import read_lines

    rows = read_lines(folder / "metrics.jsonl")
    logged = any(row["step"] <= step for row in rows if "compile_seconds" in row)
    configured = bool(config_file.read_flags(folder).get("compile"))
    if logged == configured:
        return ""
    was, flag = ("compiled", "--no_compile") if logged else ("not compiled", "--compile")
    return f" The log says that it was {was} up to here, config.json has {flag}."


def _logged_steps(folder: Path) -> str:
    """Describes the steps that a run's log has."""
    from stages.run.log import read_lines

    steps = [row["step"] for row in read_lines(folder / "metrics.jsonl")]
    return f"steps {min(steps)} to {max(steps)}" if steps else "none"


def _equal_bits(a: Tensor, b: Tensor) -> bool:
    """Tells if two tensors have the same bits, NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and bool((_bytes_of(a) == _bytes_of(b)).all())


def _bytes_of(x: Tensor) -> Tensor:
    """Returns the bytes of a tensor of any dtype, [n] uint8 on the CPU."""
    import torch

    return x.detach().cpu().reshape(-1).contiguous().view(torch.uint8)
