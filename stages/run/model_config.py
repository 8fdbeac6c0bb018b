"""Read the model's configuration from --config and --model_path, and fit it to the tokenizer."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

from data_pipes import files
from data_pipes import tokenizer as tokenizers
from pure.config import PRESETS, ModelConfig, from_dict, preset, to_dict
from pure.interop import hf
from stages.models import language_model
from stages.run.data.corpus import separator_id

DEFAULT = "tiny_config"
VOCABULARY_MULTIPLE = 64
"""A shrunk vocabulary is rounded up to a multiple of this, for faster matrix products."""

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Special ids, which may differ between --config and the model; see `fit_to_tokenizer`."""


def read_config(config: str | None, model_path: str | None) -> ModelConfig:
    """Reads the configuration of the model.

    Args:
        config: a preset's name, or a JSON file of ModelConfig's fields or of Hugging Face's; None takes the
            model's.
        model_path: the model whose weights the run starts from, or None.

    Returns:
        The ModelConfig; `tiny_config` if neither is given.

    Raises:
        ValueError: for any other value of `config`, with what to type instead; or if config and model differ.
    """
    if model_path is None:
        return read_named_config(config or DEFAULT)
    model_config = language_model.read_config(model_path)
    if config is None:
        return model_config
    named, own = to_dict(read_named_config(config)), to_dict(model_config)
    differences = [
        f"{name} {own[name]} and {named[name]}"
        for name in own
        if name not in IDS and own[name] != named[name]
    ]
    if differences:
        raise ValueError(
            f"--model_path {model_path} and --config {config} differ: "
            f"{', '.join(differences)}; omit --config to use the config of the model"
        )
    return model_config


def read_named_config(name: str) -> ModelConfig:
    """Reads a ModelConfig by a preset's name, or from a JSON file.

    Raises:
        ValueError: for anything else, with what to type instead.
    """
    path = Path(name)
    if path.suffix == ".py":
        near = difflib.get_close_matches(path.stem, PRESETS, 1)
        instead = (
            f"type --config {near[0]}"
            if near
            else f"the presets are {', '.join(PRESETS)}; for other models, write a JSON file"
        )
        raise ValueError(f"--config {name}: Python files are not run as configuration; {instead}")
    if path.suffix != ".json":
        return _find_preset(name)
    try:
        fields = files.read_json(path)
    except FileNotFoundError:
        raise ValueError(f"--config {name}: there is no such file") from None
    except ValueError as error:
        raise ValueError(f"--config {error}") from None
    try:
        return hf.from_hf_config(fields) if "model_type" in fields else from_dict(fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--config {name}: {error}") from None


def may_shrink_vocabulary(config: str | None, model_path: str | None) -> bool:
    """Returns True if the vocabulary may be shrunk: that of a preset, without a model to load."""
    return model_path is None and not (config or DEFAULT).endswith(".json")


def describe_vocabulary(
    original: ModelConfig, config: ModelConfig, tokenizer: tokenizers.Tokenizer, *, name: str
) -> str | None:
    """Describes a vocabulary that was shrunk, or that has many more rows than the tokenizer has ids.

    Args:
        original: the configuration as read.
        config: the run's configuration, from `fit_to_tokenizer`.
        tokenizer: the run's tokenizer.
        name: name of the configuration, such as "--config tiny_config".

    Returns:
        One line for the user, or None if there is nothing to report.
    """
    size = tokenizers.vocabulary_size(tokenizer)
    if config.vocab_size < original.vocab_size:
        return (
            f"vocabulary: the tokenizer has {size:,} ids, so the model has {config.vocab_size:,} rows (a "
            f"multiple of {VOCABULARY_MULTIPLE}), not the {original.vocab_size:,} of {name}"
        )
    if config.vocab_size >= size + VOCABULARY_MULTIPLE:
        return (
            f"vocabulary: {name} has {config.vocab_size:,} rows, the tokenizer {size:,} ids; the other "
            "rows are kept, and never sampled"
        )
    return None


def fit_to_tokenizer(
    config: ModelConfig, tokenizer: tokenizers.Tokenizer, *, name: str, shrink: bool = False
) -> ModelConfig:
    """Sets the special ids to the tokenizer's, and with `shrink` the size of the vocabulary.

    Args:
        config: the configuration as read.
        tokenizer: the run's tokenizer.
        name: name of the configuration, for the message.
        shrink: a larger vocabulary becomes the tokenizer's, rounded up to a multiple of VOCABULARY_MULTIPLE.

    Returns:
        The ModelConfig of the run.

    Raises:
        ValueError: if the vocabulary is smaller than the tokenizer's.
    """
    size = tokenizers.vocabulary_size(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {size:,} ids, but {name} has vocab_size {config.vocab_size:,} only; "
            "raise it in a JSON file, or leave --tokenizer_path out to train a tokenizer on the data"
        )
    special = tokenizers.special_tokens(tokenizer)
    if shrink:
        rows = min(config.vocab_size, -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE)
        bos = config.bos_token_id if (config.bos_token_id or 0) < rows else None
        config = dataclasses.replace(
            config, vocab_size=rows, bos_token_id=bos, eos_token_id=None, pad_token_id=None
        )
    return dataclasses.replace(
        config, eos_token_id=separator_id(tokenizer), pad_token_id=special.get("<|pad|>")
    )


def _find_preset(name: str) -> ModelConfig:
    """Finds a preset by name; the error suggests the nearest name."""
    if name in PRESETS:
        return preset(name)
    near = difflib.get_close_matches(name, PRESETS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"the presets are {', '.join(PRESETS)}"
    raise ValueError(f"--config {name}: expected a preset's name or a file that ends in .json; {hint}")
