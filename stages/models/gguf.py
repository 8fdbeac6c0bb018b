"""Read a GGUF file: configuration, dequantised weights, tokenizer, special tokens and chat templates.

The `gguf` package dequantises; `pure.interop.gguf` knows the names of fields and weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_pipes.tokenizer.gguf_vocabulary import from_gguf
from data_pipes.tokenizer.spec import Tokenizer, vocabulary_size
from pure import tree
from pure.config import ModelConfig
from pure.interop import gguf as names
from pure.interop import hf
from pure.interop.gguf_header import MAGIC, Entry, parse
from pure.nn.transformer import transformer
from pure.plural import count_noun
from stages.models import template_files
from stages.models.folder import one_line_error
from stages.models.special_tokens import SpecialTokens, texts_of
from stages.models.template_files import Templates

NAMES: Mapping[str, str] = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "mask_token": "mask",
}
"""Name -> the middle of GGUF's field, tokenizer.ggml.NAME_token_id (misspelled there)."""

ENDS = ("eos", "eot", "eom")
"""Middles of the fields whose tokens end an answer."""


class Contents(NamedTuple):
    """Contents of a GGUF file.

    Fields:
        config: the model's configuration.
        weights: dequantised tensors by Hugging Face's names.
        tokenizer: the model's tokenizer.
        special: special tokens, and the ids that end an answer.
        templates: chat templates.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    special: SpecialTokens
    templates: Templates


class _File(NamedTuple):
    """The mapped bytes, the fields, and the weights by name."""

    data: np.ndarray
    fields: dict[str, Any]
    entries: dict[str, Entry]


def is_gguf(path: str | Path) -> bool:
    """Tells whether a file begins with GGUF's magic bytes or has its suffix."""
    path = Path(path)
    if not path.is_file():
        return path.suffix == ".gguf"
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC or path.suffix == ".gguf"


def read(path: str | Path, dtype: torch.dtype) -> Contents:
    """Reads a GGUF file.

    Args:
        path: path of the file.
        dtype: dtype that the weights are converted to.

    Returns:
        Contents.

    Steps:
        1. Map the file and parse its header.
        2. Read the fields: configuration, tokenizer, special tokens and templates.
        3. Read the weights one by one, so that only one at a time is in memory in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or something in it is not understood.
    """
    # 1. Header.
    file = _open(Path(path))
    try:
        # 2. Fields.
        config, tokenizer = _config(file), from_gguf(file.fields)
        if not isinstance(template := file.fields.get("tokenizer.chat_template"), str | None):
            raise ValueError(f"tokenizer.chat_template: expected a text, got {str(template)[:60]}")
        special = read_special_tokens(_fields(file), tokenizer)
        templates = template_files.from_gguf(file.fields)
        # 3. Weights.
        return Contents(config, dict(_weights(file, config, dtype)), tokenizer, special, templates)
    except (ValueError, TypeError) as error:
        raise one_line_error(path, error) from None


def read_config(path: str | Path) -> ModelConfig:
    """Reads the configuration alone.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or not understood.
    """
    file = _open(Path(path))
    try:
        return _config(file)
    except (ValueError, TypeError) as error:
        raise one_line_error(path, error) from None


def read_special_tokens(fields: Mapping[str, Any], tokenizer: Tokenizer) -> SpecialTokens:
    """Reads the special tokens of a GGUF file, as llama.cpp and transformers read them.

    Args:
        fields: the file's fields, by name.
        tokenizer: tokenizer of the same file.

    Returns:
        SpecialTokens; eos, eot and eom end an answer.

    Raises:
        ValueError: for an id outside the vocabulary; the field is named.
    """
    texts = texts_of(tokenizer)
    all_ids = {part: _id(fields, part, vocabulary_size(tokenizer)) for part in (*NAMES.values(), *ENDS)}
    ids = {part: i for part, i in all_ids.items() if i is not None}
    named = tuple((name, texts[ids[part]]) for name, part in NAMES.items() if part in ids)
    ends = [ids[part] for part in ENDS if part in ids]
    generation: dict[str, Any] = {
        f"{name}_id": ids[NAMES[name]] for name in ("bos_token", "pad_token") if NAMES[name] in ids
    }
    if ends:
        generation["eos_token_id"] = ends
    tokenizer_fields = {**dict(named), "clean_up_tokenization_spaces": False}
    return SpecialTokens(named, tuple(ends[:1]), generation, tokenizer_fields)


def _id(fields: Mapping[str, Any], part: str, size: int) -> int | None:
    """One id, or None, which GGUF writes as -1 or as the largest 32-bit number."""
    name = f"tokenizer.ggml.{part}_token_id"
    value = fields.get(name)
    if value is None or value in (-1, 2**32 - 1):
        return None
    if type(value) is not int or not 0 <= value < size:
        raise ValueError(f"{name} must be an id below {size}, the size of the vocabulary, got {value!r}")
    return value


def _open(path: Path) -> _File:
    """Maps the file and parses its header."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected a GGUF file")
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    try:
        fields, entries = parse(data.data)
    except ValueError as error:
        raise one_line_error(path, ValueError(f"{error}; copy it again from its source")) from None
    return _File(data, fields, {entry.name: entry for entry in entries})


def _config(file: _File) -> ModelConfig:
    """The configuration."""
    parts = file.fields.get("split.count", 1)
    if parts != 1:
        raise ValueError(
            f"one of {parts} files of a model (split.count); join them first: llama-gguf-split --merge"
        )
    if "token_embd.weight" not in file.entries:
        raise ValueError("token_embd.weight is missing; this is not a language model's file")
    shape, factors = file.entries["token_embd.weight"].shape, file.entries.get("rope_freqs.weight")
    if len(shape) != 2:
        raise ValueError(f"token_embd.weight: expected two axes, got {len(shape)}")
    config = names.from_gguf_config(
        file.fields,
        vocabulary=shape[0],
        tied="output.weight" not in file.entries,
        biased="blk.0.attn_output.bias" in file.entries,
        mlp_biased="blk.0.ffn_gate.bias" in file.entries,
        rope_factors=None if factors is None else _numbers(file, factors),
    )
    blocks = {
        int(part[1]) for name in file.entries if len(part := name.split(".")) == 4 and part[1].isdecimal()
    }
    count = max(blocks, default=-1) + 1
    if config.num_hidden_layers != count:
        raise ValueError(
            f"block_count is {config.num_hidden_layers}, but the weights have {count_noun(count, 'block')}"
        )
    return config


def _fields(file: _File) -> dict[str, Any]:
    """The fields by name, without ids that stand for no token."""
    no_token = (-1, names.NO_TOKEN)
    return {name: x for name, x in file.fields.items() if not (name.endswith("_token_id") and x in no_token)}


def _check_shapes(file: _File, config: ModelConfig) -> None:
    """Refuses a weight of another shape than the fields ask for, before any is read."""
    spec = transformer(config).spec
    weights = hf.weight_names(spec)
    shapes = {
        weights[path]: tuple(part.shape)
        for path, part in zip(tree.paths(spec), tree.leaves(spec), strict=True)
    }
    for entry in file.entries.values():
        if entry.name == "rope_freqs.weight":
            continue
        expected = shapes.get(names.weight_name(entry.name), entry.shape)
        if entry.shape != expected:
            raise ValueError(
                f"{entry.name}: expected shape {expected} by the file's fields, got {entry.shape}"
            )


def _weights(file: _File, config: ModelConfig, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face's name, tensor) of every weight."""
    _check_shapes(file, config)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    permuted = file.fields["general.architecture"] == "llama"
    for entry in file.entries.values():
        if entry.name == "rope_freqs.weight":
            continue
        name, part = names.weight_name(entry.name), entry.name.split(".")[-2]
        numbers = _numbers(file, entry)
        if permuted and part in heads:
            numbers = names.unpermute(numbers, heads[part])
        yield name, numbers.to(dtype)


def _numbers(file: _File, entry: Entry) -> Tensor:
    """One weight, dequantised to float32 in its own memory.

    Raises:
        ValueError: if the quantisation is unknown, or the file ends before the weight does.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        kind = GGMLQuantizationType(entry.kind)
        block, size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise ValueError(f"{entry.name}: quantisation {entry.kind} is unknown to the gguf package") from None
    count = math.prod(entry.shape)
    if not entry.shape or entry.shape[-1] % block or entry.start + count // block * size > len(file.data):
        raise ValueError(f"{entry.name}: {entry.shape} numbers do not fit the file of {len(file.data)} bytes")
    stored = np.array(file.data[entry.start : entry.start + count // block * size])
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind)
    rows = stored.view(plain) if plain else stored.reshape(*entry.shape[:-1], entry.shape[-1] // block * size)
    try:
        numbers = rows if plain else dequantize(rows, kind)
    except NotImplementedError:
        raise ValueError(
            f"{entry.name}: quantisation {kind.name} is not read, as the gguf package cannot dequantise"
        ) from None
    return torch.from_numpy(np.asarray(numbers, np.float32)).reshape(entry.shape)
