"""Build the runs that train on the policy's own completions: GRPO and PPO."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from data_pipes.prompts import prompt_pipe
from data_pipes.table import TablePipe
from data_pipes.tokenizer.spec import vocabulary_size
from pure import random
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper, stepper
from pure.types import Tree
from stages.grpo import grpo
from stages.models.chat_template import stop_ids
from stages.ppo import ppo
from stages.run import optimizer
from stages.run.data import examples
from stages.run.data.completions_log import Recorder
from stages.run.data.examples import Data
from stages.run.experiment import Experiment, Recipe, Say, Start, from_start
from stages.run.metrics import Observe
from stages.run.optimizer import Optimization
from stages.run.options.tuning import (
    GRPOOptions,
    OnlineOptions,
    PPOOptions,
    TuningOptions,
    group_size,
    updates_per_step,
)
from stages.run.rewards.scorer import Scorer, scorer
from stages.run.validation import Validate, mean_reward, validate_nothing
from stages.stage import Stage
from stages.state import TrainState

VALIDATION_PROMPTS = 128
"""Largest number of held-out prompts that are answered in each validation."""


def build_grpo(options: GRPOOptions, start: Start, data: Data, say: Say) -> Experiment:
    """Builds a run of GRPO.

    Args:
        options: the flags, checked.
        start: the policy to start from, which is also the reference.
        data: prompts.
        say: prints a message to the user.

    Returns:
        Experiment.
    """
    parts = _parts(options, start, data, say)
    stage = grpo(
        start.base.model,
        parts.optimization.optimizer,
        samples=options.samples,
        beta=options.beta,
        kl=options.kl,
        variant=options.variant,
        scale=options.scale,
        iterations=options.iterations,
        reference=_reference(start, options.beta),
        **_arguments(options, start, parts),
    )
    return _experiment(start, stage, parts)


def build_ppo(options: PPOOptions, start: Start, data: Data, say: Say) -> Experiment:
    """Builds a run of PPO.

    Args:
        options: the flags, checked.
        start: the policy to start from, which is also the reference.
        data: prompts.
        say: prints a message to the user.

    Returns:
        Experiment.
    """
    parts = _parts(options, start, data, say)
    stage = ppo(
        start.base.model,
        parts.optimization.optimizer,
        beta=options.beta,
        target_kl=options.target_kl,
        epochs=options.epochs,
        minibatches=options.minibatches,
        value_weight=options.value_weight,
        entropy_weight=options.entropy_weight,
        reference=_reference(start, options.beta),
        **_arguments(options, start, parts),
    )
    return _experiment(start, stage, parts)


class _Parts(NamedTuple):
    """The inputs that both stages need.

    Fields:
        pipe: batches of the training prompts.
        optimization: optimizer and schedule, over all updates of the run.
        held_out: one batch of held-out prompts, or None.
        offset: index of the first held-out prompt among all prompts; the scorer looks up its row by it.
        scorer: computes the rewards and logs the completions.
        sampling: sampling settings of the completions.
        compile: the compiled decoding step, or False.
    """

    pipe: TablePipe
    optimization: Optimization
    held_out: TablePipe | None
    offset: int
    scorer: Scorer
    sampling: Sampling
    compile: bool | Stepper


def _parts(options: OnlineOptions, start: Start, data: Data, say: Say) -> _Parts:
    """Makes the pipes of prompts and loads the reward functions."""
    prompts = [*data.train, *data.held_out]
    length = examples.row_length(max(len(prompt.tokens) for prompt in prompts), options.max_length)
    make_pipe = partial(prompt_pipe, length=length, truncate="left")
    tokens = [prompt.tokens for prompt in data.train]
    held_out = [prompt.tokens for prompt in data.held_out[:VALIDATION_PROMPTS]]
    pipe = examples.training_pipe(make_pipe, tokens, options, seed=options.seed, say=say)
    return _Parts(
        pipe=pipe,
        optimization=optimizer.build(options, len(pipe) * updates_per_step(options), start.dtype),
        held_out=examples.held_out_pipe(make_pipe, held_out, batch_size=len(held_out)),
        offset=len(data.train),
        scorer=scorer(
            options.reward,
            weights=options.reward_weights,
            on_bad=options.on_bad_reward,
            prompts=[prompt.text for prompt in prompts],
            rows=[prompt.row for prompt in prompts],
            tokenizer=start.base.tokenizer,
            device=start.key.device,
            folder=Path(options.output_dir),
            table_every=options.table_every,
            samples=group_size(options),
            say=say,
        ),
        sampling=_sampling(options, start),
        compile=stepper(start.base.model) if options.compile else False,
    )


def _sampling(options: OnlineOptions, start: Start) -> Sampling:
    """The sampling settings of completions, in training and in validation."""
    return Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        vocabulary=vocabulary_size(start.base.tokenizer),
        stop_tokens=stop_ids(start.base, start.template),
    )


def _validate(start: Start, parts: _Parts) -> Validate:
    """The function that computes the mean reward of held-out prompts."""
    if parts.held_out is None:
        return validate_nothing
    return mean_reward(
        start.base.model,
        parts.held_out,
        parts.scorer.score,
        row_offset=parts.offset,
        key=random.fold_in(start.key, 1),
        dtype=start.dtype,
        weights=parts.scorer.weights,
        sampling=parts.sampling,
        compile=parts.compile,
    )


def _arguments(options: OnlineOptions, start: Start, parts: _Parts) -> dict[str, Any]:
    """The arguments that both stages take."""
    return {
        "score": parts.scorer.recorder.score,
        "rewards": parts.scorer.names,
        "weights": parts.scorer.weights,
        "mask_truncated": options.mask_truncated,
        "compute": start.dtype,
        "accumulation": options.gradient_accumulation,
        "ema": options.ema,
        "sampling": parts.sampling,
        "compile": parts.compile,
    }


def _reference(start: Start, beta: float) -> Tree | None:
    """Params of the reference: None if beta is 0, {} for the base without its adapters."""
    if not beta:
        return None
    return {} if start.adapter else start.base.params


def _experiment(start: Start, stage: Stage, parts: _Parts) -> Experiment:
    """The Experiment, with the log of the completions."""
    experiment = from_start(start, stage, parts.pipe, parts.optimization, validate=_validate(start, parts))
    observe = partial(_observe, learning_rate=experiment.observe, recorder=parts.scorer.recorder)
    return experiment._replace(observe=observe, identity={**parts.scorer.digests, **experiment.identity})


def _observe(state: TrainState, *, learning_rate: Observe, recorder: Recorder) -> dict[str, Tensor]:
    """Returns the learning rate and the recorder's metrics; writes the step's completions to their log."""
    return {**learning_rate(state), **recorder.observe(state)}


RECIPES: Mapping[type[TuningOptions], Recipe] = MappingProxyType(
    {
        GRPOOptions: Recipe(examples.PROMPTS, build_grpo),
        PPOOptions: Recipe(examples.PROMPTS, build_ppo),
    }
)
"""Options class -> the recipe that builds its run."""
