"""Builds a run of supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from data_pipes.sft import sft_pipe
from stages.run import optimizer
from stages.run.data import examples
from stages.run.data.examples import Data
from stages.run.experiment import Experiment, Recipe, Say, Start, from_start
from stages.run.gradient_options import gradient_options
from stages.run.options.tuning import SFTOptions, TuningOptions
from stages.run.validation import mean_loss
from stages.sft import sft


def build_sft(options: SFTOptions, start: Start, data: Data, say: Say) -> Experiment:
    """Builds a run of supervised fine-tuning.

    Args:
        options: the flags, checked.
        start: the model to start from.
        data: conversations.
        say: prints a message to the user.

    Returns:
        Experiment.
    """
    make_pipe = partial(sft_pipe, length=options.max_length, packing=options.packing)
    pipe = examples.training_pipe(make_pipe, data.train, options, seed=options.seed, say=say)
    held_out = examples.held_out_pipe(make_pipe, data.held_out, batch_size=options.batch_size)
    optimization = optimizer.build(options, len(pipe), start.dtype)
    stage = sft(
        start.base.model,
        optimization.optimizer,
        label_smoothing=options.label_smoothing,
        compute=start.dtype,
        **gradient_options(options),
    )
    return from_start(start, stage, pipe, optimization, validate=mean_loss(stage, held_out))


RECIPES: Mapping[type[TuningOptions], Recipe] = MappingProxyType(
    {
        SFTOptions: Recipe(examples.CONVERSATIONS, build_sft),
    }
)
"""Options class -> how its run is built."""
