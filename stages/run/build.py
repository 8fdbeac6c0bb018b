"""From flags to an Experiment: one table, options class -> builder.

Everything here is a function of the flags and of the files that they name, so that a resumed or replayed run
is built in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import torch

from data_pipes.chat.chat import ChatTemplate
from pure import random
from stages.models import adapter, hardware, identity, initial_adapters, language_model, new_tokens
from stages.models.chat_template import source_of, template_of, with_template
from stages.models.identity import hash_weights
from stages.models.template_kwargs import template_variables
from stages.run import (
    adapter_flags,
    build_online,
    build_preferences,
    build_pretrain,
    build_sft,
    config_file,
    final_model,
)
from stages.run.data import corpus, examples
from stages.run.experiment import Experiment, Recipe, Say, Start
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import (
    STAGES,
    OnlineOptions,
    RewardOptions,
    TuningOptions,
    check_held_out,
    check_tuning_flags,
)
from stages.run.rewards.functions import refuse_unknown

Options: TypeAlias = PretrainOptions | TuningOptions


RECIPES: Mapping[type[TuningOptions], Recipe] = MappingProxyType(
    {**build_sft.RECIPES, **build_preferences.RECIPES, **build_online.RECIPES}
)
"""Options class -> Recipe, for every stage after pretraining; defined in the files of the builders."""


def check(options: Options) -> None:
    """Refuses flags that cannot work, before any work.

    Args:
        options: of any stage.

    Raises:
        ValueError: naming the flag, its value and what to type instead.
        FileNotFoundError: for a file that a flag names and that is not there.
    """
    if isinstance(options, PretrainOptions):
        build_pretrain.check(options)
    else:
        _check_tuning(options)


def build(options: Options, say: Say = print) -> Experiment:
    """Builds a run.

    Args:
        options: of any stage, checked.
        say: prints a message to the user.

    Returns:
        Experiment.

    Raises:
        ValueError: for data or a model that cannot be read, or that do not fit each other.
        FileNotFoundError: if there is no model or no data at a path.
    """
    if isinstance(options, PretrainOptions):
        data = corpus.prepare(options, build_pretrain.vocabulary_size(options), say)
        return build_pretrain.build(options, data, say)
    recipe = RECIPES[type(options)]
    start = load_start(options, say)
    return recipe.builder(options, start, _read_rows(recipe.rows, options, start, say), say)


def rebuild(folder: Path) -> tuple[Options, Experiment]:
    """Builds the run of a folder again, from its config.json and the data in it.

    Args:
        folder: of a run.

    Returns:
        Its options and the Experiment.

    Raises:
        ValueError: if the folder has no config.json of a run, or that of another version.
    """
    kind = _options_class(folder)
    options = dataclasses.replace(config_file.read_options(folder, kind), output_dir=str(folder))
    if isinstance(options, PretrainOptions):
        return options, build_pretrain.build(options, corpus.reopen(folder), _say_nothing)
    return options, build(options, _say_nothing)


def load_start(options: TuningOptions, say: Say) -> Start:
    """Loads the model at --model_path, with new tokens and adapters as the flags say.

    Args:
        options: of a stage after pretraining.
        say: prints a message to the user.

    Returns:
        Start.

    Raises:
        ValueError, FileNotFoundError: if the model, the template or the adapters cannot be used.
    """
    device = hardware.pick_device(options.device)
    dtype = hardware.pick_dtype(options.dtype, device)
    base, template = _load_base(options, device, say)
    key, digest = random.key(options.seed, device=device), hash_weights(base.params)
    adapted = None
    save_model = partial(final_model.save_whole, base=base)
    if config := adapter_flags.lora_config_of(options):
        # A reward model is saved with its adapters merged, so they are never joined with earlier ones.
        earlier = None if isinstance(options, RewardOptions) else initial_adapters.read(options.model_path)
        adapted = adapter.attach(
            base.model,
            base.params,
            config,
            path=options.model_path,
            dtype=dtype,
            quantize=options.qlora,
            digest=digest,
            earlier=earlier,
        )
        params = adapted.model.init(random.fold_in(key, 2))
        idle = adapter_flags.describe_idle_dropout(options, config.dropout)
        say(adapter.describe(adapted, params) + idle)
        base = base._replace(model=adapted.model, params=params)
        save_model = partial(final_model.save_adapters, base=base, adapted=adapted)
    return Start(base, template, adapted, dtype, key, identity.describe_model(digest), save_model)


def _check_tuning(options: TuningOptions) -> None:
    """Refuses flags of a stage after pretraining that cannot work, before the model is loaded."""
    check_tuning_flags(options)
    adapter_flags.check_dropout(options)
    new_tokens.check_flags(
        options.add_tokens, options.vocabulary_multiple, adapters=options.qlora or options.lora is not None
    )
    adapter_flags.lora_config_of(options)
    hardware.pick_device(options.device)
    if options.chat_template:
        source_of(options.chat_template)
    template_variables(options.template_kwargs)
    tokens, flags = options.max_length, f"--max_length {options.max_length}"
    if isinstance(options, OnlineOptions):
        refuse_unknown(options.reward)
        tokens += options.max_new_tokens
        flags += f" and --max_new_tokens {options.max_new_tokens}"
    context = language_model.read_config(options.model_path).max_position_embeddings
    if tokens > context:
        raise ValueError(
            f"{flags}: {tokens} tokens exceed the model's max_position_embeddings {context}; take fewer"
        )


def _load_base(
    options: TuningOptions, device: torch.device, say: Say
) -> tuple[language_model.Pretrained, ChatTemplate]:
    """Loads the model at --model_path, and applies --add_tokens and --chat_template."""
    base = language_model.move_to(language_model.load(options.model_path, dtype=torch.float32), device)
    if options.add_tokens:
        base = new_tokens.add_tokens(base, options.add_tokens, multiple=options.vocabulary_multiple, say=say)
    template = template_of(options.chat_template, base, options.template_kwargs)
    if options.chat_template and base.other_templates:
        others = ", ".join(name for name, _ in base.other_templates)
        say(f"--chat_template replaces the model's own templates ({others} too)")
    return with_template(base, template), template


def _read_rows(kind: examples.Kind, options: TuningOptions, start: Start, say: Say) -> examples.Data:
    """Reads the rows at --data_path."""
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
    data = examples.read(kind, source, start.base.tokenizer, start.template, say)
    if not data.held_out:
        check_held_out(options, len(data.train))
    return data


def _options_class(folder: Path) -> type[Options]:
    """The options class of a run's folder."""
    name = config_file.read_stage(folder)
    if name is None:
        return PretrainOptions
    if name not in STAGES:
        raise ValueError(
            f"{folder / config_file.NAME}: unknown stage {name!r}; the run was made by another version"
        )
    return STAGES[name]


def _say_nothing(line: str) -> None:
    """Ignores a line for the user."""
