"""Read the tokenizer of a GGUF file: byte-level BPE (tokens, merges, named split pattern) or SentencePiece.

Source: the GGUF specification; the names of split patterns are llama.cpp's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.gguf_sentencepiece import CONTROL, NORMAL, UNKNOWN, UNUSED, USER, from_pieces
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec
from data_pipes.tokenizer.step import NFC

PATTERNS: Mapping[str, tuple[str, bool, bool]] = {
    "gpt-2": ("gpt2", False, False),
    "smollm": ("smollm2", False, False),
    "llama-bpe": ("llama3", False, True),
    "llama3": ("llama3", False, True),
    "llama-v3": ("llama3", False, True),
    "qwen2": ("qwen2", True, False),
    "deepseek-r1-qwen": ("qwen2", False, False),
}
"""llama.cpp's name -> (our pattern, whether text is normalised to NFC, `ignore_merges` of TokenizerSpec)."""


def from_gguf(fields: Mapping[str, Any]) -> Tokenizer:
    """Builds a tokenizer from the metadata fields of a GGUF file.

    Args:
        fields: "tokenizer.ggml.model", ".tokens", ".token_type"; ".pre" and ".merges" of a byte-level
            tokenizer ("gpt2"), ".scores" and ".add_space_prefix" of SentencePiece's ("llama"); and
            optionally ".add_bos_token" with ".bos_token_id".

    Returns:
        A Tokenizer that returns the same ids as the model's original one. Unused tokens "[PAD9]" at the end,
        which a converter adds for padding rows of the embedding, are left out.

    Raises:
        ValueError: for another tokenizer model, an unknown pattern name, or a field that is missing or
            invalid.
    """
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if model == "llama":
        return _from_sentencepiece(fields)
    if model != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model {model!r} is not supported, only 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece)"
        )
    if not isinstance(pre, str) or pre not in PATTERNS:
        raise ValueError(f"tokenizer.ggml.pre {pre!r} is not supported; expected {', '.join(PATTERNS)}")
    tokens = _read_list(fields, "tokens", str)
    types = _read_token_types(fields, len(tokens))
    merges = [tuple(merge.split(" ")) for merge in _read_list(fields, "merges", str)]
    if len(types) != len(tokens):
        raise ValueError(
            f"tokenizer.ggml.token_type: expected {len(tokens)} types, one per token, got {len(types)}; the "
            "file is damaged"
        )
    for i, merge in enumerate(merges):
        if len(merge) != 2:
            raise ValueError(
                f"tokenizer.ggml.merges[{i}]: expected two tokens, got {' '.join(merge)[:60]!r}; the file is "
                "damaged"
            )
    tokens = tokens[: _count_used(tokens, types)]
    pattern, nfc, ignore_merges = PATTERNS[pre]
    added = tuple(
        AddedToken(token, i, special=token_type != USER)
        for i, (token, token_type) in enumerate(zip(tokens, types, strict=False))
        if token_type in (UNKNOWN, CONTROL, USER, UNUSED)
    )
    spec = TokenizerSpec(
        kind="byte_level",
        vocab=tuple(tokens),
        merges=tuple((a, b) for a, b in merges),
        pattern=pattern,
        added_tokens=added,
        normalizer=NFC if nfc else (),
        ignore_merges=ignore_merges,
        prefix=_bos_prefix(fields),
    )
    return from_spec(spec)


def _from_sentencepiece(fields: Mapping[str, Any]) -> Tokenizer:
    """Builds a SentencePiece tokenizer; like llama.cpp it prepends BOS and a space to a text by default."""
    tokens, scores = _read_list(fields, "tokens", str), _read_list(fields, "scores", float)
    types = _read_token_types(fields, len(tokens))
    if "tokenizer.ggml.merges" in fields or fields.get("tokenizer.ggml.precompiled_charsmap"):
        raise ValueError("tokenizer.ggml.model 'llama' with merges or precompiled_charsmap is not supported")
    if not all(map(math.isfinite, scores)):
        raise ValueError("tokenizer.ggml.scores must be finite numbers")
    space = fields.get("tokenizer.ggml.add_space_prefix", True)
    return from_pieces(tokens, scores, types, space_first=bool(space), prefix=_bos_prefix(fields))


def _read_token_types(fields: Mapping[str, Any], count: int) -> Sequence[int]:
    """Reads the type of each token; without the field all `count` tokens are NORMAL."""
    if "tokenizer.ggml.token_type" not in fields:
        return [NORMAL] * count
    return _read_list(fields, "token_type", int)


def _count_used(tokens: Sequence[str], types: Sequence[int]) -> int:
    """Counts the tokens without those at the end that stand for padding rows of the embedding, "[PAD9]"."""
    count = len(tokens)
    while count and types[count - 1] == UNUSED and tokens[count - 1] == f"[PAD{count - 1}]":
        count -= 1
    return count


def _read_list(fields: Mapping[str, Any], name: str, entry_type: type) -> Sequence[Any]:
    """Reads a list field and checks the type of its entries."""
    values = fields.get(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not values:
        raise ValueError(f"tokenizer.ggml.{name} is missing or empty")
    for i, value in enumerate(values):
        if type(value) is not entry_type:
            raise ValueError(
                f"tokenizer.ggml.{name}[{i}]: expected {entry_type.__name__}, got {str(value)[:60]!r}"
            )
    return values


def _bos_prefix(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the ids that are prepended to every text: (bos,) or none.

    Without the field add_bos_token, as in llama.cpp, BOS is added for SentencePiece and Llama 3's pattern.
    """
    pre = fields.get("tokenizer.ggml.pre")
    default = fields["tokenizer.ggml.model"] == "llama" or PATTERNS.get(str(pre), ("",))[0] == "llama3"
    for name in ("add_bos_token", "add_eos_token"):
        if not isinstance(value := fields.get(f"tokenizer.ggml.{name}", False), bool):
            raise ValueError(f"tokenizer.ggml.{name}: expected true or false, got {str(value)[:60]}")
    if fields.get("tokenizer.ggml.add_eos_token"):
        raise ValueError(
            "tokenizer.ggml.add_eos_token is not supported: EOS would be appended to prompts too"
        )
    if not fields.get("tokenizer.ggml.add_bos_token", default):
        return ()
    bos = fields.get("tokenizer.ggml.bos_token_id")
    if bos is None and "tokenizer.ggml.add_bos_token" not in fields:
        return ()
    if bos is None:
        raise ValueError("tokenizer.ggml.add_bos_token is set, but there is no tokenizer.ggml.bos_token_id")
    if isinstance(bos, bool) or not isinstance(bos, int):
        raise ValueError(f"tokenizer.ggml.bos_token_id: expected an id, got {str(bos)[:60]}")
    return (bos,)
