"""Make a run one that several processes compute together: flags compared, stage wrapped, data compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from pure.plural import count_noun
from stages.data_parallel import data_parallel
from stages.online import Online
from stages.rollout import Rollouts
from stages.run import processes as joining
from stages.run.data.completions_log import Recorder
from stages.run.experiment import Experiment, fingerprint_of
from stages.run.processes import Processes
from stages.sharded import sharded
from stages.stage import Stage
from stages.state import TrainState


def compare_flags(processes: Processes, flags: Mapping[str, Any]) -> None:
    """Checks that all processes have the same flags and the same code.

    Args:
        processes: joined, or alone.
        flags: name -> value.

    Raises:
        ValueError: naming the first flag, version or digest that differs.
    """
    facts = {f"--{name}": value for name, value in flags.items()}
    joining.compare(processes, {**joining.describe_code(), **facts}, about="flags and code")


def describe_split(size: int, rows: int, *, tensor: int = 1, shard: str = "none", noun: str = "row") -> str:
    """Says how the processes divide each batch.

    Args:
        size: number of processes.
        rows: of a batch.
        tensor: number of processes that share the model.
        shard: as in `join`.
        noun: name of a row.

    Returns:
        One line.

    Example:
        >>> describe_split(2, 8, shard="state")
        '2 processes, 4 rows of each batch on each, --shard state'
    """
    parts = size // tensor
    low, more = divmod(rows, parts)
    count = f"{low} or {low + 1} {noun}s" if more else count_noun(low, noun)
    groups = f" in groups of {tensor} that share the model" if tensor > 1 else ""
    split = "" if shard == "none" else f", --shard {shard}"
    return f"{size} processes{groups}, {count} of each batch on each{' group' if groups else ''}{split}"


def join(experiment: Experiment, processes: Processes, shard: str = "none") -> tuple[Experiment, Processes]:
    """Compares the built run with that of the other processes, and makes its step one of them all.

    Args:
        experiment: the run as built from the flags.
        processes: joined, or alone; connected already where they share the model.
        shard: "none"; "state" or "layers": each process holds its rows of the state.

    Returns:
        (experiment, processes), the processes with their groups; on the first, the experiment's completions
        are recorded.

    Raises:
        ValueError: if data, model or stage differ between processes; it names the entry.
    """
    if processes.channel is not None:
        joining.compare(processes, fingerprint_of(experiment), about="data and model")
        processes = joining.connect(processes, experiment.key.device)
        wrap = data_parallel if shard == "none" else partial(sharded, layers=shard == "layers")
        experiment = experiment._replace(stage=wrap(experiment.stage, processes.data))
    if processes.first and experiment.recorder is not None:
        observe = partial(_observe_and_record, observe=experiment.observe, recorder=experiment.recorder)
        stage = record_scores(experiment.stage, experiment.recorder)
        experiment = experiment._replace(stage=stage, observe=observe)
    return experiment, processes


def record_scores(stage: Stage, recorder: Recorder) -> Stage:
    """Returns an online stage whose completions and rewards, those of all processes, are remembered.

    Args:
        stage: with parts.
        recorder: remembers them until it logs them.
    """
    assert stage.parts is not None
    assert stage.parts.score is not None
    score = partial(_score_and_remember, score=stage.parts.score, recorder=recorder)
    parts: Online = stage.parts._replace(score=score)
    return stage._replace(step=_replace_parts(stage.step, parts), parts=parts)


def _replace_parts(step: Any, parts: Online) -> Any:
    """The same step with other parts; that of several processes has the plain one as its first argument."""
    if "parts" in step.keywords:
        return partial(step.func, *step.args, **{**step.keywords, "parts": parts})
    inner, *rest = step.args
    return partial(step.func, _replace_parts(inner, parts), *rest, **step.keywords)


def _score_and_remember(rollouts: Rollouts, /, *, score: Any, recorder: Recorder) -> Tensor:
    """Scores completions, and keeps them with their rewards for the log."""
    rewards = score(rollouts)
    recorder.remember(rollouts, rewards)
    return rewards


def _observe_and_record(state: TrainState, *, observe: Any, recorder: Recorder) -> dict[str, Tensor]:
    """Returns the learning rate; writes the step's completions to their log."""
    recorder.write(state)
    return observe(state)
