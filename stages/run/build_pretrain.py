"""Builds a run of pretraining: model, optimizer, stage, pipe and validation."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from data_pipes import tokenizer as tokenizers
from data_pipes.pack import row_count
from data_pipes.pretrain import pretrain_pipe
from data_pipes.table import TablePipe
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.tokens import TokenStore
from data_pipes.windows import windows
from pure import random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.parallel.group import Group
from pure.plural import count_noun
from stages.models import hardware, identity, language_model, trained_length
from stages.models.identity import hash_weights
from stages.models.language_model import Pretrained
from stages.pretrain import pretrain
from stages.run import config_file, final_model, mfu, model_config, optimizer
from stages.run.data.corpus import Corpus
from stages.run.experiment import Experiment, Say
from stages.run.gradient_options import gradient_options
from stages.run.options.base import BatchFlags
from stages.run.options.pretrain import PretrainOptions, StartFlags, check_pretrain_flags
from stages.run.samples import make_sample
from stages.run.tensor_parts import check_model, cut_base
from stages.run.validation import bits_per_byte


def build(
    options: PretrainOptions, corpus: Corpus, say: Say = print, tensor: Group | None = None
) -> Experiment:
    """Builds a run of pretraining.

    Args:
        options: the flags, checked.
        corpus: the data.
        say: prints a message to the user.
        tensor: processes that share the model; None: this one has the whole.

    Returns:
        Experiment.

    Raises:
        ValueError: if flags and corpus do not fit, or the folder holds checkpoints of another model.
    """
    device = hardware.pick_device(options.device)
    dtype = hardware.pick_dtype(options.dtype, device)
    config = _build_config(options, corpus.tokenizer, say)
    config_file.refuse_other_model(Path(options.output_dir), dataclasses.asdict(config))
    whole, base_identity = _start_model(
        options.model_path, config, corpus.tokenizer, device, length=options.max_length
    )
    base = cut_base(whole, tensor)
    pipe = make_pipe(
        corpus.train,
        options,
        seed=options.seed,
        boundaries=options.boundaries,
        data_path=options.data_path,
    )
    optimization = optimizer.build(options, len(pipe), dtype)
    stage = pretrain(
        base.model,
        optimization.optimizer,
        compute=dtype,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        **gradient_options(options),
    )
    held_out = windows(
        corpus.held_out,
        batch_size=options.batch_size,
        length=options.max_length,
        stride=(options.max_length + 1) // 2,  # each scored token has at least half a window of context
        boundaries=options.boundaries,
    )
    return Experiment(
        base=base,
        template=None,
        stage=stage,
        pipe=pipe,
        params=base.params if options.model_path else None,
        key=random.key(options.seed, device=device),
        validate=bits_per_byte(base.model, held_out, corpus.held_out_bytes, dtype=dtype),
        observe=optimizer.observe(optimization.schedule),
        schedule=optimization.schedule,
        identity=base_identity,
        save_model=partial(final_model.save_whole, base=base),
        model_flops=mfu.model_flops(whole.model, options.max_length, dtype, device),
        sample=make_sample(base, None, options.sample_prompt, dtype),
    )


def check(options: PretrainOptions) -> None:
    """Checks flags against each other before any work.

    Args:
        options: the flags.

    Raises:
        ValueError: for a value out of range or two that contradict each other; it names the flags.
    """
    check_pretrain_flags(options)
    config = model_config.read_config(options.config, options.model_path)
    check_model(options.tensor_parallel, config)
    if options.tokenizer_path and Path(options.tokenizer_path).exists():
        model_config.fit_to_tokenizer(
            config, tokenizers.load(options.tokenizer_path), name=_config_flag(options)
        )
    if options.max_length > config.max_position_embeddings:
        raise ValueError(
            f"--max_length {options.max_length} exceeds the model's max_position_embeddings "
            f"{config.max_position_embeddings}; shorten the rows, or raise it in a JSON file for --config"
        )
    hardware.pick_device(options.device)


def make_pipe(
    store: TokenStore,
    flags: BatchFlags,
    *,
    seed: int,
    boundaries: Literal["ignore", "mask"],
    data_path: str,
) -> TablePipe:
    """Makes the pipe of training batches for `num_epochs`, or for `max_steps` if that is given.

    Args:
        store: the training split.
        flags: size and number of the batches.
        seed: of the order.
        boundaries: see `data_pipes.pretrain.pretrain_pipe`.
        data_path: for the error message.

    Returns:
        A pipe.

    Raises:
        ValueError: if the text is too short for one row.
    """
    tokens, length, max_steps = len(store.tokens), flags.max_length, flags.max_steps
    if tokens <= length:
        raise ValueError(
            f"--data_path {data_path}: the training split has {count_noun(tokens, 'token')}, but one row of "
            f"--max_length {length} takes {length + 1}; give more text, or --max_length {max(tokens - 1, 1)}"
        )
    epochs = flags.num_epochs
    if max_steps:
        epochs = max(math.ceil(max_steps * flags.batch_size / row_count(tokens, length)), 1)
    pipe = pretrain_pipe(
        store,
        batch_size=flags.batch_size,
        length=length,
        key=seed,
        epochs=epochs,
        boundaries=boundaries,
    )
    return pipe[:max_steps]


def _build_config(flags: StartFlags, tokenizer: Tokenizer, say: Say) -> ModelConfig:
    """Returns the model's config with the tokenizer's ids."""
    name = _config_flag(flags)
    original = model_config.read_config(flags.config, flags.model_path)
    shrink = model_config.may_shrink_vocabulary(flags.config, flags.model_path)
    config = model_config.fit_to_tokenizer(original, tokenizer, name=name, shrink=shrink)
    if line := model_config.describe_vocabulary(original, config, tokenizer, name=name):
        say(line)
    return config


def _start_model(
    model_path: str | None,
    config: ModelConfig,
    tokenizer: Tokenizer,
    device: torch.device,
    *,
    length: int,
) -> tuple[Pretrained, dict[str, str]]:
    """Returns the model to start from, without params if they are new, and the identity of its weights."""
    new = Pretrained(transformer(config), {}, tokenizer, trained_length=length)
    if not model_path:
        return new, {}
    base = language_model.load(model_path, dtype=torch.float32)
    base_identity = identity.describe_model(hash_weights(base.params))
    base = language_model.move_to(base, device)
    longest = trained_length.extend(base.trained_length, length)
    new = new._replace(params=base.params, trained_length=longest)
    return language_model.with_tokenizer_of(new, base), base_identity


def _config_flag(flags: StartFlags) -> str:
    """Returns the flag that selects the model's config, for messages."""
    if flags.model_path:
        return f"--model_path {flags.model_path}"
    return f"--config {flags.config or model_config.DEFAULT}"
