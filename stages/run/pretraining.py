"""From flags to a run: model, optimizer, stage, pipe and validation.

Everything here is a function of PretrainOptions and the data, so that `resume` and `replay` build the same
again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_pipes import tokenizer as tokenizers
from data_pipes.pack import row_count
from data_pipes.pretrain import pretrain_pipe
from data_pipes.table import TablePipe
from data_pipes.windows import windows
from pure import optim, random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.types import GradientTransformation, Model, Schedule, Tree
from stages.models import hardware
from stages.pretrain import pretrain
from stages.run import shape
from stages.run.data.corpus import Corpus
from stages.run.options.pretrain import PretrainOptions, check_pretrain_flags
from stages.run.validation import bits_per_byte
from stages.stage import Stage
from stages.state import TrainState


class Experiment(NamedTuple):
    """All that a run needs; a pure function of the options and the corpus."""

    config: ModelConfig
    model: Model
    stage: Stage
    pipe: TablePipe
    validate: Callable[[Tree], dict[str, float]]
    schedule: Schedule
    key: torch.Tensor
    told: str | None = None  # what the user should know of how flags and data fit


def build(options: PretrainOptions, corpus: Corpus) -> Experiment:
    """Builds model, stage, pipe and validation.

    Args:
        options: the flags, checked.
        corpus: the data.

    Returns:
        Experiment.

    Raises:
        ValueError: if options and corpus do not fit.
    """
    asked, told = shape.read(options.config, options.model_path), _told(options)
    follow = shape.follows(options.config, options.model_path)
    config = shape.with_ids(asked, corpus.tokenizer, told=told, follow=follow)
    model = transformer(config)
    pipe = make_pipe(options, corpus)
    schedule = make_schedule(options, len(pipe))
    device = hardware.pick_device(options.device)
    dtype = hardware.pick_dtype(options.dtype, device)
    stage = pretrain(
        model,
        make_optimizer(options, schedule),
        compute=dtype,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        accumulation=options.gradient_accumulation,
        ema=options.ema,
    )
    held_out = windows(
        corpus.held_out,
        batch_size=options.batch_size,
        length=options.max_length,
        stride=(options.max_length + 1) // 2,
        boundaries=options.boundaries,
    )
    validate = bits_per_byte(model, held_out, corpus.held_out_bytes, dtype=dtype)
    key = random.key(options.seed, device=device)
    rows = shape.rows_told(asked, config, corpus.tokenizer, told=told)
    return Experiment(config, model, stage, pipe, validate, schedule, key, rows)


def check(options: PretrainOptions) -> ModelConfig:
    """Checks flags against each other before any work is done.

    Returns:
        The model's shape.

    Raises:
        ValueError: for a value out of range or two that contradict each other; it names the flags.
    """
    check_pretrain_flags(options)
    if not options.data_path:
        raise ValueError(
            '--data_path is empty; name a file, a folder ("." is this one), a data set, or "embedded"'
        )
    config = shape.read(options.config, options.model_path)
    if options.tokenizer_path and Path(options.tokenizer_path).exists():
        shape.with_ids(config, tokenizers.load(options.tokenizer_path), told=_told(options))
    if options.max_length > config.max_position_embeddings:
        raise ValueError(
            f"--max_length {options.max_length} exceeds the model's max_position_embeddings "
            f"{config.max_position_embeddings}; shorten the rows, or raise it in a JSON file for --config"
        )
    hardware.pick_device(options.device)
    return config


def _told(options: PretrainOptions) -> str:
    """What the model's shape is called."""
    given = options.model_path
    return f"--model_path {given}" if given else f"--config {options.config or shape.DEFAULT}"


def make_pipe(options: PretrainOptions, corpus: Corpus) -> TablePipe:
    """The batches: of all epochs, or of as many as max_steps takes.

    Raises:
        ValueError: if the corpus is too short for one row.
    """
    tokens = len(corpus.train.tokens)
    if tokens <= options.max_length:
        raise ValueError(
            f"--data_path {options.data_path}: the training part has {tokens} tokens, but one row of --max_length "
            f"{options.max_length} takes {options.max_length + 1}; give more text, or --max_length {max(tokens - 1, 1)}"
        )
    rows = row_count(tokens, options.max_length)
    needed = math.ceil((options.max_steps or 0) * options.batch_size / rows)
    pipe = pretrain_pipe(
        corpus.train,
        batch_size=options.batch_size,
        length=options.max_length,
        key=options.seed,
        epochs=max(needed, 1) if options.max_steps else options.num_epochs,
        boundaries=options.boundaries,
    )
    return pipe[: options.max_steps] if options.max_steps else pipe


def make_schedule(options: PretrainOptions, steps: int) -> Schedule:
    """The learning rate over `steps` optimizer updates, as --schedule, --warmup and --final_learning_rate
    say.

    Raises:
        ValueError: for a negative warm-up.
    """
    if options.warmup < 0:
        raise ValueError(f"--warmup: expected a share or a number of steps, at least 0, got {options.warmup}")
    warmup = int(options.warmup * steps if options.warmup < 1 else options.warmup)
    peak, end = options.learning_rate, options.learning_rate * options.final_learning_rate
    begin, warmup = (0.0, warmup) if warmup else (peak, 1)
    steps = max(steps, warmup + 1)
    if options.schedule == "constant":
        return optim.warmup_constant_schedule(begin, peak, warmup)
    if options.schedule == "linear":
        return optim.warmup_linear_decay_schedule(begin, peak, warmup, steps, end)
    if options.schedule == "wsd":
        decay = max(1, steps // 5)
        return optim.wsd_schedule(begin, peak, warmup, max(steps - warmup - decay, 1), decay, end_value=end)
    return optim.warmup_cosine_decay_schedule(begin, peak, warmup, steps, end)


def make_optimizer(options: PretrainOptions, schedule: Schedule) -> GradientTransformation:
    """The optimizer that the flags describe, after clipping."""
    dtype = hardware.pick_dtype(options.dtype, hardware.pick_device(options.device))
    decay, mask = options.weight_decay, optim.decay_mask
    made = {
        "adamw": lambda: optim.adamw(schedule, b2=0.95, weight_decay=decay, mask=mask),
        "lion": lambda: optim.lion(schedule, weight_decay=decay, mask=mask),
        "muon": lambda: optim.muon(
            schedule,
            adam_b2=0.95,
            weight_decay=decay,
            consistent_rms=0.2,  # so that a rate means the same as AdamW's
            muon_weight_dimension_numbers=optim.hidden_matrices,
            ns_dtype=torch.float32 if dtype == torch.float32 else torch.bfloat16,
        ),
        "sgd": lambda: optim.chain(
            optim.add_decayed_weights(decay, mask=mask), optim.sgd(schedule, momentum=0.9, nesterov=True)
        ),
    }[options.optimizer]()
    return (
        optim.chain(optim.clip_by_global_norm(options.max_grad_norm), made) if options.max_grad_norm else made
    )


def resolved(options: PretrainOptions, config: ModelConfig) -> Mapping[str, Any]:
    """What goes into config.json: every flag, the model, and the versions it ran with."""
    return {
        "options": dataclasses.asdict(options),
        "model": dataclasses.asdict(config),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def learning_rate(state: TrainState, *, schedule: Schedule) -> dict[str, torch.Tensor]:
    """The rate of the last update, by the optimizer's own count, which a skipped step does not advance."""
    paths = tree.paths(state.opt_state)
    counts = [
        x for path, x in zip(paths, tree.leaves(state.opt_state), strict=True) if path.endswith("count")
    ]
    return {"learning_rate": schedule((counts[0] - 1).clamp(min=0))} if counts else {}
