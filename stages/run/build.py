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
from pure.parallel.group import Group
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
    model_config,
)
from stages.run.data import corpus, examples, sources
from stages.run.experiment import Experiment, Recipe, Say, Start, say_nothing
from stages.run.options.base import SampleFlags, check_rows
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import (
    STAGES,
    BaseModelFlags,
    GRPOOptions,
    OnlineOptions,
    PPOOptions,
    PreferenceOptions,
    TuningOptions,
    check_held_out,
    check_tuning_flags,
)
from stages.run.processes import ALONE, Processes, after_first, take_gpu
from stages.run.rewards.functions import refuse_unknown
from stages.run.samples import make_sample
from stages.run.tensor_parts import (
    check_adapters,
    check_model,
    check_optimizer,
    check_rollouts,
    count_parts,
    cut_base,
)

Options: TypeAlias = PretrainOptions | TuningOptions


RECIPES: Mapping[type[TuningOptions], Recipe] = MappingProxyType(
    {**build_sft.RECIPES, **build_preferences.RECIPES, **build_online.RECIPES}
)
"""Options class -> Recipe, for every stage after pretraining; defined in the files of the builders."""


def check(options: Options, processes: Processes = ALONE) -> None:
    """Refuses flags that cannot work, before any work.

    Args:
        options: of any stage.
        processes: those that compute the run together.

    Raises:
        ValueError: naming the flag, its value and what to type instead.
        FileNotFoundError: for a file that a flag names and that is not there.
    """
    parts = count_parts(options.tensor_parallel, processes.size)
    if processes.size == 1 and options.shard != "none":
        raise ValueError(
            f"--shard {options.shard} cuts the state over processes, and there is one; start several with "
            "intro2llm launch NUMBER, or leave --shard out"
        )
    if options.shard == "layers" and (options.noise_scale or options.clip_per_sample):
        raise ValueError(
            "--shard layers has no whole gradient for --noise_scale and --clip_per_sample; use --shard state"
        )
    if processes.size > 1 and options.backend == "jax":
        raise ValueError("--backend jax runs in one process, which may have many devices; start it alone")
    check_optimizer(options.tensor_parallel, options)
    if isinstance(options, PretrainOptions):
        build_pretrain.check(options)
        take_gpu(processes, hardware.pick_device(options.device))
        check_rows(options, options.batch_size, f"--batch_size {options.batch_size}", parts)
        return
    take_gpu(processes, hardware.pick_device(options.device))
    check_tuning_flags(options)
    new_tokens.check_flags(
        options.add_tokens, options.vocabulary_multiple, adapters=options.qlora or options.lora is not None
    )
    adapter_flags.lora_config_of(options)
    if options.chat_template:
        source_of(options.chat_template)
    template_variables(options.template_kwargs)
    tokens, flags = options.max_length, f"--max_length {options.max_length}"
    if isinstance(options, OnlineOptions):
        refuse_unknown(options.reward)
        check_rollouts(options.tensor_parallel, options)
        tokens += options.max_new_tokens
        flags += f" and --max_new_tokens {options.max_new_tokens}"
    config = language_model.read_config(options.model_path)
    check_model(options.tensor_parallel, config)
    check_adapters(options.tensor_parallel, options)
    context = config.max_position_embeddings
    if tokens > context:
        raise ValueError(
            f"{flags}: {tokens} tokens exceed the model's max_position_embeddings {context}; take fewer"
        )
    rows, name = options.batch_size, f"--batch_size {options.batch_size}"
    if isinstance(options, GRPOOptions) and rows >= parts:
        rows, name = rows * options.samples, f"{name} of --samples {options.samples}"
    if isinstance(options, PPOOptions) and rows >= parts:
        rows, name = rows // options.minibatches, f"{name} in --minibatches {options.minibatches}"
    check_rows(options, rows, name, parts)


def build(options: Options, say: Say = print, processes: Processes = ALONE) -> Experiment:
    """Builds a run.

    Args:
        options: of any stage, checked.
        say: prints a message to the user.
        processes: those that compute the run together; the first prepares the data of pretraining.

    Returns:
        Experiment.

    Raises:
        ValueError: for data or a model that cannot be read, or that do not fit each other.
        FileNotFoundError: if there is no model or no data at a path.
    """
    if isinstance(options, PretrainOptions):
        vocab_size = model_config.read_config(options.config, options.model_path).vocab_size
        prepare = partial(corpus.prepare, options, vocab_size, say)
        prepared = after_first(processes, prepare, waits_for=f"the data in {options.output_dir}")
        text = prepared or corpus.reopen_shared(Path(options.output_dir))
        return build_pretrain.build(options, text, say, processes.tensor)
    recipe = RECIPES[type(options)]
    device = hardware.pick_device(options.device)
    start = load_start(
        options,
        dtype=hardware.pick_dtype(options.dtype, device),
        key=random.key(options.seed, device=device),
        dropout=recipe.dropout and not (isinstance(options, PreferenceOptions) and options.disable_dropout),
        joins_adapters=recipe.joins_adapters,
        say=say,
        tensor=processes.tensor,
    )
    source = examples.Source(
        options.data_path,
        options.output_dir,
        options.held_out,
        options.examples,
        seed=options.seed,
        subset=options.subset,
        split=options.split,
        on_bad=options.on_bad,
        workers=options.workers,
    )
    data = examples.read(
        recipe.rows, source, start.base.tokenizer, start.template, say, lists_bad=processes.first
    )
    if processes.first:
        counts = {"train": len(data.train), "held out": len(data.held_out)}
        sources.record(Path(options.output_dir), options.data_path, counts)
    if not data.held_out:
        check_held_out(options, len(data.train))
    prompts = options.sample_prompt if isinstance(options, SampleFlags) else ()
    sample = make_sample(start.base, start.template, prompts, start.dtype)
    return recipe.builder(options, start, data, say)._replace(sample=sample)


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
        return options, build_pretrain.build(options, corpus.reopen(folder), say_nothing)
    return options, build(options, say_nothing)


def load_start(
    flags: BaseModelFlags,
    *,
    dtype: torch.dtype,
    key: torch.Tensor,
    dropout: bool,
    joins_adapters: bool,
    say: Say,
    tensor: Group | None = None,
) -> Start:
    """Loads the model at --model_path, with new tokens and adapters as the flags say.

    Args:
        flags: the model, its template, new tokens and adapters.
        dtype: compute dtype.
        key: [2] uint32, the root of the run's randomness, on the device of the model.
        dropout: the stage trains with dropout.
        joins_adapters: join new adapters with those at --model_path; False merges those into the base.
        say: prints a message to the user.
        tensor: processes that share the model; None: this one has the whole. Whole params are on the device
            until the run is built.

    Returns:
        Start.

    Raises:
        ValueError, FileNotFoundError: if the model, the template or the adapters cannot be used.
    """
    base, template = _load_base(flags, key.device, say)
    digest = hash_weights(base.params)
    whole, base, adapted = base, cut_base(base, tensor), None
    save_model = partial(final_model.save_whole, base=base)
    if config := adapter_flags.lora_config_of(flags):
        adapted = adapter.attach(
            base.model,
            base.params,
            config,
            path=flags.model_path,
            dtype=dtype,
            quantize=flags.qlora,
            digest=digest,
            earlier=initial_adapters.read(flags.model_path) if joins_adapters else None,
        )
        params = adapted.model.init(random.fold_in(key, 2))
        idle = adapter_flags.describe_idle_dropout(config.dropout, used=dropout)
        say(adapter.describe(adapted, params) + idle)
        whole = base = base._replace(model=adapted.model, params=params)
        save_model = partial(final_model.save_adapters, base=base, adapted=adapted)
    return Start(base, whole, template, adapted, dtype, key, identity.describe_model(digest), save_model)


def _load_base(
    flags: BaseModelFlags, device: torch.device, say: Say
) -> tuple[language_model.Pretrained, ChatTemplate]:
    """Loads the model at --model_path, and applies --add_tokens and --chat_template."""
    base = language_model.move_to(language_model.load(flags.model_path, dtype=torch.float32), device)
    if flags.add_tokens:
        base = new_tokens.add_tokens(base, flags.add_tokens, multiple=flags.vocabulary_multiple, say=say)
    template = template_of(flags.chat_template, base, flags.template_kwargs)
    if flags.chat_template and base.other_templates:
        others = ", ".join(name for name, _ in base.other_templates)
        say(f"--chat_template replaces the model's own templates ({others} too)")
    return with_template(base, template), template


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
