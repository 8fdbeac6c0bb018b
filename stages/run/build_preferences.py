"""Builds the runs that learn from preferences: reward models, DPO and KTO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from data_pipes.preference import preference_pipe, unpaired_pipe, with_reference
from data_pipes.table import TablePipe
from pure import tree
from pure.nn.scalar import scalar_model
from pure.transform.precision import cast_params
from stages.dpo import REFERENCE_FREE, dpo
from stages.kto import kto
from stages.reward import reward
from stages.run import final_model, optimizer
from stages.run.data import examples
from stages.run.data.examples import Data
from stages.run.experiment import Experiment, Recipe, Say, Start, from_start
from stages.run.gradient_options import gradient_options
from stages.run.options.base import BatchFlags
from stages.run.options.tuning import DPOOptions, KTOOptions, RewardOptions, TuningOptions
from stages.run.validation import mean_loss

METRICS = ("rewards/accuracies", "rewards/margins")
"""Metrics of the loss that validation reports too."""

BALANCE = (1.0, 4 / 3)
"""Range in which KTO's weighted numbers of desirable and undesirable answers are balanced."""


def build_reward(options: RewardOptions, start: Start, data: Data, say: Say) -> Experiment:
    """Builds a run that trains a reward model.

    Args:
        options: the flags, checked.
        start: the model to start from, which gets a scalar head.
        data: preference pairs.
        say: prints a message to the user.

    Returns:
        Experiment.
    """
    pipe, held_out = _build_pipes(preference_pipe, _longest_side(data), options, options.seed, data, say)
    optimization = optimizer.build(options, len(pipe), start.dtype)
    stage = reward(
        start.base.model,
        optimization.optimizer,
        center=options.center,
        disable_dropout=options.disable_dropout,
        compute=start.dtype,
        **gradient_options(options),
    )
    validate = mean_loss(stage, held_out, METRICS)
    return from_start(start, stage, pipe, optimization, validate=validate)._replace(
        params=scalar_model(start.base.model).init(start.key, start.base.params),
        save_model=partial(final_model.save_reward_model, base=start.base, adapted=start.adapter),
    )


def build_dpo(options: DPOOptions, start: Start, data: Data, say: Say) -> Experiment:
    """Builds a run of DPO; the reference's log-probabilities are computed once, before the first step.

    Args:
        options: the flags, checked.
        start: the model to start from, which is also the reference.
        data: preference pairs.
        say: prints a message to the user.

    Returns:
        Experiment.
    """
    pipe, held_out = _build_pipes(preference_pipe, _longest_side(data), options, options.seed, data, say)
    if options.variant not in REFERENCE_FREE:
        say("computing the reference's log-probabilities")
        reference = tree.cast(
            start.whole.params, start.dtype
        )  # freshly initialised adapters are the identity
        pipe = with_reference(pipe, start.whole.model, reference)
        if held_out is not None:
            held_out = with_reference(held_out, start.whole.model, reference)
    optimization = optimizer.build(options, len(pipe), start.dtype)
    stage = dpo(
        start.base.model,
        optimization.optimizer,
        beta=options.beta,
        variant=options.variant,
        label_smoothing=options.label_smoothing,
        disable_dropout=options.disable_dropout,
        compute=start.dtype,
        **gradient_options(options),
    )
    return from_start(start, stage, pipe, optimization, validate=mean_loss(stage, held_out, METRICS))


def build_kto(options: KTOOptions, start: Start, data: Data, say: Say) -> Experiment:
    """Builds a run of KTO.

    Args:
        options: the flags, checked.
        start: the model to start from, which is also the reference.
        data: unpaired completions, each labelled desirable or undesirable.
        say: prints a message to the user.

    Returns:
        Experiment.
    """
    _report_labels(data, options.desirable_weight, options.undesirable_weight, say)
    longest = max(len(answer.completion.tokens) for answer in [*data.train, *data.held_out])
    pipe, held_out = _build_pipes(unpaired_pipe, longest, options, options.seed, data, say)
    optimization = optimizer.build(options, len(pipe), start.dtype)
    reference = {} if start.adapter else cast_params(start.base.params, start.dtype)  # {}: without adapters
    stage = kto(
        start.base.model,
        optimization.optimizer,
        reference=reference,
        beta=options.beta,
        desirable_weight=options.desirable_weight,
        undesirable_weight=options.undesirable_weight,
        disable_dropout=options.disable_dropout,
        compute=start.dtype,
        **gradient_options(options),
    )
    validate = mean_loss(stage, held_out, ("rewards/chosen", "rewards/rejected", "kl"))
    return from_start(start, stage, pipe, optimization, validate=validate, reference=reference)


def _report_labels(data: Data, desirable_weight: float, undesirable_weight: float, say: Say) -> None:
    """Reports how many training answers have either label, and the weight that would balance them.

    The paper advises w⁺ n⁺ / (w⁻ n⁻) in BALANCE; see `pure.loss.kto.kto_loss`.
    """
    desirable = sum(answer.desirable for answer in data.train)
    undesirable = len(data.train) - desirable
    line = f"labels: {desirable:,} desirable, {undesirable:,} undesirable"
    if not desirable or not undesirable:
        say(f"{line}; KTO learns from both kinds, and one is missing")
        return
    weighted = desirable_weight * desirable
    if not BALANCE[0] <= weighted / (undesirable_weight * undesirable) <= BALANCE[1]:
        line += f"; --undesirable_weight {weighted / undesirable:.3g} would balance their losses"
    say(line)


def _longest_side(data: Data) -> int:
    """Returns the number of tokens of the longest side of any preference pair."""
    return max(len(side.tokens) for pair in [*data.train, *data.held_out] for side in pair)


def _build_pipes(
    pipe_fn: Callable[..., TablePipe], longest: int, flags: BatchFlags, seed: int, data: Data, say: Say
) -> tuple[TablePipe, TablePipe | None]:
    """Builds the pipes of training and held-out answers; rows are as long as the longest answer needs."""
    length = examples.row_length(longest - 1, flags.max_length)  # less 1: labels are shifted
    make_pipe = partial(pipe_fn, length=length)
    pipe = examples.training_pipe(make_pipe, data.train, flags, seed=seed, say=say)
    return pipe, examples.held_out_pipe(make_pipe, data.held_out, batch_size=flags.batch_size)


RECIPES: Mapping[type[TuningOptions], Recipe] = MappingProxyType(
    {
        # A reward model is saved with its adapters merged, so they are never joined with earlier ones.
        RewardOptions: Recipe(examples.PREFERENCES, build_reward, joins_adapters=False),
        DPOOptions: Recipe(examples.PREFERENCES, build_dpo),
        KTOOptions: Recipe(examples.UNPAIRED, build_kto),
    }
)
"""Options class -> how its run is built."""
