"""The parts of a run, the same for every stage: built from its flags and the files that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from data_pipes.chat.chat import ChatTemplate
from data_pipes.types import Pipe
from pure.types import Schedule, Tree
from stages.checkpoint.fingerprint import fingerprint
from stages.models.adapter import Adapter
from stages.models.language_model import Pretrained
from stages.online import Rollout, Update
from stages.run import optimizer
from stages.run.data.completions_log import Recorder
from stages.run.data.examples import Data, Kind
from stages.run.metrics import Observe
from stages.run.mfu import ModelFlops
from stages.run.optimizer import Optimization
from stages.run.samples import Sample
from stages.run.tensor_parts import pair_with_whole
from stages.run.validation import Validate
from stages.stage import Stage

Say = Callable[[str], None]
"""Prints a message, one line, to the user."""


class SaveModel(Protocol):
    """Writes the trained model into a folder."""

    def __call__(self, folder: Path, params: Tree) -> Path: ...


class Start(NamedTuple):
    """The model at --model_path, ready to be trained.

    Fields:
        base: model, params in float32, tokenizer and chat template; with adapters, the adapted model and the
            params of the adapters; with --tensor_parallel, this process's part of the model.
        whole: `base` before it was cut over processes.
        template: the chat template, compiled.
        adapter: the frozen base of the adapters; None trains the whole model.
        dtype: compute dtype.
        key: [2] uint32, the root of the run's randomness.
        identity: entries of the run's fingerprint: the weights at --model_path.
        save_model: writes a language model, or its adapters.
    """

    base: Pretrained
    whole: Pretrained
    template: ChatTemplate
    adapter: Adapter | None
    dtype: torch.dtype
    key: torch.Tensor
    identity: Mapping[str, str]
    save_model: SaveModel


class Experiment(NamedTuple):
    """A run before its first step; a function of the flags and of the files that they name.

    Fields:
        base: model and tokenizer, with the params to start from; {} if the stage initializes them.
        template: the chat template, compiled; None in pretraining.
        stage: its step is folded over the pipe.
        pipe: the batches of all epochs.
        params: initial params of the stage; None if the stage initializes them.
        key: [2] uint32, the root of the run's randomness.
        validate: params -> {name: number}; lower "val_loss" is better.
        observe: state -> further numbers for the log.
        schedule: schedule of the learning rate.
        identity: entries of the fingerprint besides stage, pipe and tokenizer: initial weights, rewards.
        save_model: writes final_model.
        model_flops: FLOPs of a token and peak of the device, for the log; None logs neither.
        reference: params of a frozen model that the stage computes with; None: it has none.
        recorder: logs the completions of an online stage; `stages.run.parallel.join` gives them to it.
        sample: completes --sample_prompt; None without one.
    """

    base: Pretrained
    template: ChatTemplate | None
    stage: Stage
    pipe: Pipe
    params: Tree | None
    key: torch.Tensor
    validate: Validate
    observe: Observe
    schedule: Schedule
    identity: Mapping[str, str]
    save_model: SaveModel
    model_flops: ModelFlops | None = None
    reference: Tree | None = None
    recorder: Recorder | None = None
    sample: Sample | None = None


class Recipe(NamedTuple):
    """Builder of a post-training stage, and what it needs.

    Fields:
        rows: the kind of rows that it trains on.
        builder: (options, the model to start from, the rows, say) -> Experiment.
        dropout: whether it can train with dropout.
        joins_adapters: whether new adapters are joined with those at --model_path; if not, those are merged
            into the base.
    """

    rows: Kind
    builder: Callable[[Any, Start, Data, Say], Experiment]
    dropout: bool = True
    joins_adapters: bool = True


def say_nothing(line: str) -> None:
    """Ignores a line for the user, which another process prints, or nobody."""


def from_start(
    start: Start,
    stage: Stage,
    pipe: Pipe,
    optimization: Optimization,
    *,
    validate: Validate,
    reference: Tree | None = None,
) -> Experiment:
    """Makes the Experiment of a stage that trains the model at --model_path.

    Args:
        start: the model, whose params the stage begins with.
        stage, pipe: stage and batches of the run.
        optimization: optimizer and schedule of the stage.
        validate: params -> {name: number}.
        reference: params of the frozen model that the stage computes with, if it does.

    Returns:
        Experiment.
    """
    return Experiment(
        base=start.base,
        template=start.template,
        stage=stage,
        pipe=pipe,
        params=start.base.params,
        key=start.key,
        validate=validate,
        observe=optimizer.observe(optimization.schedule),
        schedule=optimization.schedule,
        identity=start.identity,
        save_model=start.save_model,
        reference=reference,
    )


class _Parts(NamedTuple):
    """The parts of an online stage that a fingerprint describes: all but the rewards, which are Python."""

    rollout: Rollout
    update: Update


def fingerprint_of(experiment: Experiment) -> dict[str, str]:
    """Computes a run's fingerprint: all that determines its numbers; resuming refuses another fingerprint.

    Args:
        experiment: the run; all processes that share its model must make the same call.

    Returns:
        {path: literal or digest} of stage, pipe, tokenizer, initial weights and rewards.
    """
    described = _without_rewards(experiment.stage)
    parts = pair_with_whole(experiment.reference, experiment.base.model)
    facts = fingerprint(described, experiment.pipe, experiment.base.tokenizer, parts)
    return {**facts, **experiment.identity}


def _without_rewards(stage: Stage) -> Any:
    """The stage without its reward functions; the experiment's identity has their digests."""
    return stage if stage.parts is None else _Parts(stage.parts.rollout, stage.parts.update)
