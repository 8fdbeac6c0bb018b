"""Build the runs that train on the policy's own completions: GRPO and PPO."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from data_pipes.prompts import prompt_pipe
from data_pipes.table import TablePipe
from data_pipes.tokenizer.spec import vocabulary_size
from pure import random
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper, stepper
from pure.transform.precision import cast_params
from pure.types import Tree
from stages.grpo import grpo
from stages.models.chat_template import stop_ids
from stages.ppo import ppo
from stages.run import optimizer
from stages.run.data import examples
from stages.run.data.examples import Data
from stages.run.experiment import Experiment, Recipe, Say, Start, from_start
from stages.run.gradient_options import gradient_options
from stages.run.options.base import BatchFlags
from stages.run.options.tuning import CompletionFlags, GRPOOptions, PPOOptions, TuningOptions
from stages.run.rewards.scorer import Scorer, scorer
from stages.run.rollout_server import build_sampler
from stages.run.validation import Validate, mean_reward, validate_nothing

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
    pipe, held_out = _build_pipes(options, options.seed, data, say)
    optimization = optimizer.build(options, len(pipe) * options.iterations, start.dtype)
    rewards = scorer(
        options,
        [*data.train, *data.held_out],
        tokenizer=start.base.tokenizer,
        device=start.key.device,
        folder=Path(options.output_dir),
        table_every=options.table_every,
        samples=options.samples,
        say=say,
    )
    sampling, reference = _sampling(options, start), _reference(start, options.beta)
    decode = stepper(start.base.model) if options.compile else False
    sampler = build_sampler(options, start, sampling, options.samples, Path(options.output_dir), say)
    stage = grpo(
        start.base.model,
        optimization.optimizer,
        score=rewards.score,
        sampling=sampling,
        rewards=rewards.names,
        weights=rewards.weights,
        reference=reference,
        beta=options.beta,
        samples=options.samples,
        kl=options.kl,
        variant=options.variant,
        scale=options.scale,
        iterations=options.iterations,
        mask_truncated=options.mask_truncated,
        rollout=sampler,
        importance_cap=options.importance_cap,
        compute=start.dtype,
        compile=decode,
        **gradient_options(options),
    )
    validate = _validate(start, held_out, len(data.train), rewards, sampling, decode)
    experiment = from_start(start, stage, pipe, optimization, validate=validate, reference=reference)
    return _with_log(experiment, rewards)


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
    pipe, held_out = _build_pipes(options, options.seed, data, say)
    optimization = optimizer.build(options, len(pipe) * options.epochs * options.minibatches, start.dtype)
    rewards = scorer(
        options,
        [*data.train, *data.held_out],
        tokenizer=start.base.tokenizer,
        device=start.key.device,
        folder=Path(options.output_dir),
        table_every=options.table_every,
        samples=1,
        say=say,
    )
    sampling, reference = _sampling(options, start), _reference(start, options.beta)
    decode = stepper(start.base.model) if options.compile else False
    sampler = build_sampler(options, start, sampling, 1, Path(options.output_dir), say)
    stage = ppo(
        start.base.model,
        optimization.optimizer,
        score=rewards.score,
        sampling=sampling,
        rewards=rewards.names,
        weights=rewards.weights,
        reference=reference,
        beta=options.beta,
        target_kl=options.target_kl,
        epochs=options.epochs,
        minibatches=options.minibatches,
        value_weight=options.value_weight,
        entropy_weight=options.entropy_weight,
        mask_truncated=options.mask_truncated,
        rollout=sampler,
        importance_cap=options.importance_cap,
        compute=start.dtype,
        compile=decode,
        **gradient_options(options),
    )
    validate = _validate(start, held_out, len(data.train), rewards, sampling, decode)
    experiment = from_start(start, stage, pipe, optimization, validate=validate, reference=reference)
    return _with_log(experiment, rewards)


def _build_pipes(flags: BatchFlags, seed: int, data: Data, say: Say) -> tuple[TablePipe, TablePipe | None]:
    """Builds the pipe of training prompts, and one batch of held-out prompts."""
    longest = max(len(prompt.tokens) for prompt in [*data.train, *data.held_out])
    length = examples.row_length(longest, flags.max_length)
    make_pipe = partial(prompt_pipe, length=length, truncate="left")
    tokens = [prompt.tokens for prompt in data.train]
    held_out = [prompt.tokens for prompt in data.held_out[:VALIDATION_PROMPTS]]
    pipe = examples.training_pipe(make_pipe, tokens, flags, seed=seed, say=say)
    return pipe, examples.held_out_pipe(make_pipe, held_out, batch_size=len(held_out))


def _sampling(flags: CompletionFlags, start: Start) -> Sampling:
    """The sampling settings of completions, in training and in validation."""
    return Sampling(
        max_new_tokens=flags.max_new_tokens,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        vocabulary=vocabulary_size(start.base.tokenizer),
        stop_tokens=stop_ids(start.base, start.template),
    )


def _validate(
    start: Start,
    held_out: TablePipe | None,
    offset: int,
    rewards: Scorer,
    sampling: Sampling,
    decode: bool | Stepper,
) -> Validate:
    """The function that computes the mean reward of held-out prompts, the first of which is row `offset`."""
    if held_out is None:
        return validate_nothing
    return mean_reward(
        start.base.model,
        held_out,
        rewards.score,
        row_offset=offset,
        key=random.fold_in(start.key, 1),
        dtype=start.dtype,
        weights=rewards.weights,
        sampling=sampling,
        compile=decode,
    )


def _reference(start: Start, beta: float) -> Tree | None:
    """Params of the reference: None if beta is 0, {} for the base without its adapters."""
    if not beta:
        return None
    return {} if start.adapter else cast_params(start.base.params, start.dtype)


def _with_log(experiment: Experiment, rewards: Scorer) -> Experiment:
    """The experiment, with the log of the completions and the digests of the rewards."""
    identity = {**rewards.digests, **experiment.identity}
    return experiment._replace(recorder=rewards.recorder, identity=identity)


RECIPES: Mapping[type[TuningOptions], Recipe] = MappingProxyType(
    {
        GRPOOptions: Recipe(examples.PROMPTS, build_grpo, dropout=False),
        PPOOptions: Recipe(examples.PROMPTS, build_ppo, dropout=False),
    }
)
"""Options class -> the recipe that builds its run."""
