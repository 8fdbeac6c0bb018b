"""From flags to a run after pretraining: data, pipe, stage and validation of each rung.

Everything here is a function of the flags and of what lies at the paths that they name, so that `resume` and
`replay` build the same again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from data_pipes.chat.chat import ChatTemplate
from data_pipes.preference import preference_pipe, with_reference
from data_pipes.prompts import prompt_pipe
from data_pipes.sft import sft_pipe
from data_pipes.tokenizer.spec import vocabulary_size
from data_pipes.types import Pipe
from pure import random, tree
from pure.generation.sampling import Sampling
from pure.generation.stepper import stepper
from pure.nn.scalar import scalar_model
from pure.types import GradientTransformation, Schedule, Tree
from stages.dpo import FREE, dpo
from stages.grpo import grpo
from stages.models import hardware, identity, initial_adapters, language_model
from stages.models.chat_template import stop_ids, template_of, with_template
from stages.models.language_model import Pretrained
from stages.models.new_tokens import add_tokens
from stages.ppo import ppo
from stages.reward import reward
from stages.run import adapter, dropout, pretraining, validation
from stages.run.adapter import Adapter
from stages.run.data import examples
from stages.run.options import checks
from stages.run.options import tuning as flags
from stages.run.rewards.scorer import scorer
from stages.sft import sft
from stages.stage import Stage
from stages.state import TrainState

MULTIPLE = 8
"""Rows are as long as the longest example, rounded up to a multiple of this, and at most --max_length."""

ASKED_AT_ONCE = 128
"""Held-out prompts that are answered for a validation."""


class Tuning(NamedTuple):
    """All that a run needs; a function of the flags and the files that they name.

    Fields:
        base: the model to start from, float32, its tokenizer and chat template.
        template: compiled.
        stage, pipe: of the run.
        params: to start from: the model's own, or, with another head, made of them.
        validate: params -> {name: number}; lower "val_loss" is better.
        schedule: of the learning rate.
        key: the run's.
        observe: state -> further numbers for the log.
        adapter: what the params belong to, if they are adapters.
        judged_by: what the rewards are made of, for the run's fingerprint.
        made_from: what the model of --model_path is, for the same.
    """

    base: Pretrained
    template: ChatTemplate
    stage: Stage
    pipe: Pipe
    params: Tree
    validate: Callable[[Tree], Mapping[str, float]]
    schedule: Schedule
    key: torch.Tensor
    observe: Callable[[TrainState], Mapping[str, torch.Tensor]]
    adapter: Adapter | None = None
    judged_by: Mapping[str, str] = MappingProxyType({})
    made_from: Mapping[str, str] = MappingProxyType({})


def build(options: flags.TuningOptions, say: Callable[[str], None] = print) -> Tuning:
    """Builds whatever the options are of.

    Args:
        options: of one of the rungs.
        say: takes lines for the person who waits.

    Returns:
        Tuning.

    Raises:
        ValueError: for flags that contradict each other or data that cannot be read, naming them.
        FileNotFoundError: if there is no model or no data at a path.
    """
    checks.check(options)
    device = hardware.pick_device(options.device)
    base = language_model.load(options.model_path, dtype=torch.float32)
    base = language_model.move_to(base, device)
    if options.add_tokens:
        base = add_tokens(base, options.add_tokens, multiple=options.vocabulary_multiple, say=say)
    template = template_of(options.chat_template, base, options.template_kwargs)
    if options.chat_template and base.other_templates:
        say(
            f"--chat_template replaces the model's own templates ({', '.join(x for x, _ in base.other_templates)} too)"
        )
    base = with_template(base, template)
    make = {
        flags.SFTOptions: _sft,
        flags.RewardOptions: _reward,
        flags.DPOOptions: _dpo,
        flags.GRPOOptions: _online,
        flags.PPOOptions: _online,
    }[type(options)]
    key, made_from = random.key(options.seed, device=device), identity.describe_model(base.params)
    joins = adapter.asked(options) is not None and not isinstance(options, flags.RewardOptions)
    before = initial_adapters.read(options.model_path) if joins else None
    adapted = adapter.build(options, base.model, base.params, _dtype(options), before)
    if adapted is not None:
        start = adapted.model.init(random.fold_in(key, 2))
        say(adapter.told(adapted, start) + dropout.told(options, adapted.config.dropout))
        base = base._replace(model=adapted.model, params=start)
    return make(options, base, template, key, say)._replace(adapter=adapted, made_from=made_from)


def _sft(options: Any, base: Pretrained, template: ChatTemplate, key: torch.Tensor, say: Callable) -> Tuning:
    """Supervised fine-tuning."""
    data = _read(examples.CONVERSATIONS, options, base, template, say)
    pipe = partial(
        sft_pipe, batch_size=options.batch_size, length=options.max_length, packing=options.packing
    )
    train = _cut(options, pipe(data.train, key=options.seed, epochs=_many(options)))
    told(train, say)
    schedule, optimizer = _descent(options, len(train))
    made = sft(base.model, optimizer, label_smoothing=options.label_smoothing, **_common(options))
    held_out = pipe(data.held_out, key=None, shuffle=False) if data.held_out else None
    return Tuning(
        base,
        template,
        made,
        train,
        base.params,
        _validate(made, held_out, ()),
        schedule,
        key,
        partial(pretraining.learning_rate, schedule=schedule),
    )


def _reward(
    options: Any, base: Pretrained, template: ChatTemplate, key: torch.Tensor, say: Callable
) -> Tuning:
    """A reward model."""
    train, held_out = _pairs(options, base, template, say)
    schedule, optimizer = _descent(options, len(train))
    made = reward(base.model, optimizer, center=options.center, **_common(options))
    params = scalar_model(base.model).init(key, base.params)
    check = _validate(made, held_out, ("rewards/accuracies", "rewards/margins"))
    rate = partial(pretraining.learning_rate, schedule=schedule)
    return Tuning(base, template, made, train, params, check, schedule, key, rate)


def _dpo(options: Any, base: Pretrained, template: ChatTemplate, key: torch.Tensor, say: Callable) -> Tuning:
    """Direct preference optimization; the reference's log-probabilities are computed once, before the first
    step."""
    train, held_out = _pairs(options, base, template, say)
    if options.variant not in FREE:
        say("computing the reference's log-probabilities")
        frozen = tree.cast(base.params, _dtype(options))  # adapters as they begin change nothing yet
        train, held_out = (pipe and with_reference(pipe, base.model, frozen) for pipe in (train, held_out))
    schedule, optimizer = _descent(options, len(train))
    made = dpo(
        base.model,
        optimizer,
        beta=options.beta,
        variant=options.variant,
        label_smoothing=options.label_smoothing,
        **_common(options),
    )
    check = _validate(made, held_out, ("rewards/accuracies", "rewards/margins"))
    rate = partial(pretraining.learning_rate, schedule=schedule)
    return Tuning(base, template, made, train, base.params, check, schedule, key, rate)


def _online(
    options: Any, base: Pretrained, template: ChatTemplate, key: torch.Tensor, say: Callable
) -> Tuning:
    """GRPO and PPO: prompts, rewards, and a recorder that writes the answers down."""
    data = _read(examples.PROMPTS, options, base, template, say)
    every = [*data.train, *data.held_out]
    length = min(_up(max(len(asked.tokens) for asked in every)), options.max_length)
    ask = partial(prompt_pipe, length=length, truncate="left")
    train = _cut(
        options,
        ask(
            [asked.tokens for asked in data.train],
            batch_size=options.batch_size,
            key=options.seed,
            epochs=_many(options),
        ),
    )
    told(train, say)
    judge = scorer(
        options,
        prompts=[asked.text for asked in every],
        rows=[asked.row for asked in every],
        tokenizer=base.tokenizer,
        device=key.device,
        say=say,
    )
    schedule, optimizer = _descent(options, len(train) * flags.updates_per_step(options))
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        vocabulary=vocabulary_size(base.tokenizer),
        stop_tokens=stop_ids(base, template),
    )
    compiled = stepper(base.model) if options.compile else False
    made = _rung(options)(
        base.model,
        optimizer,
        score=judge.recorder.score,
        rewards=judge.names,
        weights=judge.weights,
        beta=options.beta,
        mask_truncated=options.mask_truncated,
        reference=_reference(options, base),
        sampling=sampling,
        compile=compiled,
        **_common(options),
    )
    held_out = [asked.tokens for asked in data.held_out[:ASKED_AT_ONCE]]
    check = (
        validation.mean_reward(
            base.model,
            ask(held_out, batch_size=len(held_out), key=None, shuffle=False),
            judge.score,
            first=len(data.train),
            key=random.fold_in(key, 1),
            dtype=_dtype(options),
            weights=judge.weights,
            sampling=sampling,
            compile=compiled,
        )
        if held_out
        else _nothing
    )
    rate = partial(pretraining.learning_rate, schedule=schedule)
    return Tuning(
        base,
        template,
        made,
        train,
        base.params,
        check,
        schedule,
        key,
        lambda state: {**rate(state), **judge.recorder.observe(state)},
        judged_by=judge.made_of,
    )


def _rung(options: Any) -> Callable[..., Stage]:
    """The stage's builder, with the flags that only it has."""
    if isinstance(options, flags.GRPOOptions):
        return partial(
            grpo,
            samples=options.samples,
            kl=options.kl,
            variant=options.variant,
            scale=options.scale,
            iterations=options.iterations,
        )
    return partial(
        ppo,
        target_kl=options.target_kl,
        epochs=options.epochs,
        minibatches=options.minibatches,
        value_weight=options.value_weight,
        entropy_weight=options.entropy_weight,
    )


def _read(
    kind: examples.Kind,
    options: flags.TuningOptions,
    base: Pretrained,
    template: ChatTemplate,
    say: Callable[[str], None],
) -> examples.Data:
    """Examples of the rows that the flags name."""
    source = examples.Source(
        options.data_path,
        options.output_dir,
        options.held_out,
        options.examples,
        seed=options.seed,
        subset=options.subset,
        split=options.split,
        on_bad=options.on_bad,
    )
    data = examples.read(kind, source, base.tokenizer, template, say)
    if not data.held_out:
        flags.check_held_out(options, len(data.train))
    return data


def _pairs(options: Any, base: Pretrained, template: ChatTemplate, say: Callable) -> tuple[Any, Any]:
    """The pipes of preference pairs, rows as long as the longest answer needs."""
    data = _read(examples.PREFERENCES, options, base, template, say)
    longest = max(len(side.tokens) for pair in [*data.train, *data.held_out] for side in pair)
    length = min(_up(longest - 1), options.max_length)
    pipe = partial(preference_pipe, batch_size=options.batch_size, length=length)
    train = _cut(options, pipe(data.train, key=options.seed, epochs=_many(options)))
    told(train, say)
    return train, pipe(data.held_out, key=None, shuffle=False) if data.held_out else None


def _descent(options: Any, updates: int) -> tuple[Schedule, GradientTransformation]:
    """The schedule over all optimizer updates, and the optimizer."""
    schedule = pretraining.make_schedule(options, updates)
    return schedule, pretraining.make_optimizer(options, schedule)


def _common(options: flags.TuningOptions) -> dict[str, Any]:
    """What every stage takes."""
    return {
        "compute": _dtype(options),
        "accumulation": options.gradient_accumulation,
        "ema": options.ema,
        **dropout.stage_option(options),
    }


def _reference(options: Any, base: Pretrained) -> Tree | None:
    """Params of the frozen policy: none, the base without its adapters, or the ones to start from."""
    return None if not options.beta else {} if adapter.asked(options) else base.params


def _dtype(options: flags.TuningOptions) -> torch.dtype:
    """Precision of the products."""
    return hardware.pick_dtype(options.dtype, hardware.pick_device(options.device))


def _many(options: flags.TuningOptions) -> int:
    """Epochs to ask a pipe for: enough for --max_steps, which then cuts it."""
    return options.num_epochs if not options.max_steps else max(options.max_steps * options.batch_size, 1)


def _cut(options: flags.TuningOptions, pipe: Any) -> Any:
    """The first --max_steps batches."""
    return pipe[: options.max_steps] if options.max_steps else pipe


def told(pipe: Any, say: Callable[[str], None]) -> None:
    """Says what a pipe shortened and left out: nothing vanishes silently.

    Args:
        pipe: of examples.
        say: takes a line for the person who waits.
    """
    if pipe.truncated or pipe.dropped:
        say(
            f"data: {pipe.truncated:,} rows were too long and shortened, {pipe.dropped:,} had nothing left to learn; "
            "--max_length sets the limit"
        )


def _validate(made: Stage, pipe: Any, names: tuple[str, ...]) -> Callable[[Tree], Mapping[str, float]]:
    """The mean loss of what is held out, if there is any."""
    return _nothing if pipe is None else validation.mean_loss(made, pipe, names)


def _nothing(params: Tree) -> dict[str, float]:
    """No data is held out, so nothing is known."""
    return {}


def _up(length: int) -> int:
    """The next multiple."""
    return math.ceil(length / MULTIPLE) * MULTIPLE
