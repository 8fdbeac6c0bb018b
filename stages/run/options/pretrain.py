"""Flags of a pretraining run: plain values, written to `config.json` and read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from stages.run.options.base import (
    CrossEntropyFlags,
    PathFlags,
    SampleFlags,
    TrainOptions,
    check_training_flags,
)
from stages.run.options.groups import RowFlags, TextFlags, TextSourceFlags, WorkerFlags, defaults
from stages.run.options.ranges import AtLeast, Within, check_values


@dataclass(frozen=True, kw_only=True)
class StartFlags:
    """The model that pretraining starts from."""

    config: str | None = None
    """Model configuration: a preset's name, or a JSON file of ModelConfig's fields; None takes
    tiny_config."""
    tokenizer_path: str | None = None
    """A tokenizer.json to use; None trains one on the data, with the model's vocabulary size."""
    model_path: str | None = None
    """Model to continue from, with its configuration, weights and tokenizer: a run's folder, or a folder in
    Hugging Face's layout."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveFlags:
    """Loss of pretraining, and the tokens that it attends to."""

    z_loss: Annotated[float, AtLeast(0)] = 0.0
    """Weight of the z-loss, the squared log of the softmax's normalizer; PaLM used 1e-4."""
    boundaries: Literal["ignore", "mask"] = "ignore"
    """Document boundaries within a row: ignore them, or mask attention to earlier documents."""


@dataclass(frozen=True, kw_only=True)
class CorpusFlags(TextSourceFlags, WorkerFlags, RowFlags, PathFlags, StartFlags):
    """Text, its split and its tokenizer."""

    held_out: Annotated[float, Within("(0, 0.5]", "a share", "0.05 holds out a twentieth")] = 0.05
    """Share of the documents held out for validation, at most 10 MB; chosen by name, or, with few documents,
    the end of each."""
    filter: bool = False
    """Drop documents that are too short, repetitive, binary or duplicates, and log the reason."""


@dataclass(frozen=True, kw_only=True)
@defaults(
    output_dir="runs/pretrain",
    batch_size=32,
    learning_rate=1e-3,
    schedule="cosine",
    weight_decay=0.1,
    save_every=500,
    eval_every=500,
)
class PretrainOptions(SampleFlags, CorpusFlags, ObjectiveFlags, TextFlags, CrossEntropyFlags, TrainOptions):
    """Train a language model on text, with a tokenizer trained on the same text.

    The result is a folder that transformers loads.
    """


def check_pretrain_flags(options: PretrainOptions) -> None:
    """Checks every flag of a pretraining run by itself, and those that depend on each other.

    Raises:
        ValueError: if a flag is out of range or does not fit another; names the flag, its value and the fix.
    """
    check_values(options)
    check_training_flags(options)
