"""Special tokens of a GGUF file: names and ids that end an answer, as llama.cpp and transformers read
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipes.tokenizer.spec import Tokenizer, vocabulary_size
from stages.models.special_tokens import SpecialTokens, texts_of

NAMES: Mapping[str, str] = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding",
    "mask_token": "mask",
}  # fmt: skip
"""Name -> the middle of GGUF's field, tokenizer.ggml.NAME_token_id (misspelled there)."""

ENDS = ("eos", "eot", "eom")
"""Middles of the fields whose tokens end an answer."""


def from_gguf(fields: Mapping[str, Any], tokenizer: Tokenizer) -> SpecialTokens:
    """Reads the fields of a GGUF file.

    Args:
        fields: by name.
        tokenizer: that was made of them.

    Returns:
        SpecialTokens; eos, eot and eom end an answer.

    Raises:
        ValueError: for an id that the vocabulary has not; the field is named.
    """
    texts = texts_of(tokenizer)
    every = {part: _id(fields, part, vocabulary_size(tokenizer)) for part in (*NAMES.values(), *ENDS)}
    ids = {part: i for part, i in every.items() if i is not None}
    named = tuple((name, texts[ids[part]]) for name, part in NAMES.items() if part in ids)
    ends = [ids[part] for part in ENDS if part in ids]
    generation = {f"{name}_id": ids[NAMES[name]] for name in ("bos_token", "pad_token") if NAMES[name] in ids}
    written = {**dict(named), "clean_up_tokenization_spaces": False}
    return SpecialTokens(
        named, tuple(ends[:1]), {**generation, **({"eos_token_id": ends} if ends else {})}, written
    )


def _id(fields: Mapping[str, Any], part: str, size: int) -> int | None:
    """One id; -1, and the largest number of 32 bits, are none."""
    name = f"tokenizer.ggml.{part}_token_id"
    value = fields.get(name)
    if value is None or value in (-1, 2**32 - 1):
        return None
    if type(value) is not int or not 0 <= value < size:
        raise ValueError(f"{name} must be an id below {size}, those of the vocabulary, got {value!r}")
    return value
