"""Read the tokenizer of a GGUF file: tokens, their types, and merges with a named split pattern, or scores.

Source: the GGUF specification; the names of patterns are llama.cpp's.
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
"""llama.cpp's name -> (our pattern, True to normalise to NFC, True to take a word that is a token whole)."""


def from_gguf(fields: Mapping[str, Any]) -> Tokenizer:
    """Makes a tokenizer of a file's fields.

    Args:
        fields: "tokenizer.ggml.model", ".tokens", ".token_type"; ".pre" and ".merges" of a byte-level
            tokenizer ("gpt2"), ".scores" and ".add_space_prefix" of SentencePiece's ("llama"); and
            optionally ".add_bos_token" with ".bos_token_id".

    Returns:
        A Tokenizer that gives the ids of the model's own.

    Raises:
        ValueError: if it is of another kind, the pattern's name is not known, or a part is missing or
            damaged.
    """
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind == "llama":
        return _from_sentencepiece(fields)
    if kind != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model {kind!r} is not supported, only 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece)"
        )
    if not isinstance(pre, str) or pre not in PATTERNS:
        raise ValueError(f"tokenizer.ggml.pre {pre!r} is not supported; expected {', '.join(PATTERNS)}")
    tokens = _read_list(fields, "tokens", str)
    kinds = (
        _read_list(fields, "token_type", int) if "tokenizer.ggml.token_type" in fields else [1] * len(tokens)
    )
    merges = [tuple(merge.split(" ")) for merge in _read_list(fields, "merges", str)]
    if len(kinds) != len(tokens) or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"the tokenizer is damaged: {len(tokens)} tokens, {len(kinds)} kinds, and a merge must be two "
            "tokens"
        )
    pattern, nfc, ignore_merges = PATTERNS[pre]
    added = tuple(
        AddedToken(token, i, special=kind != USER)
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, USER, UNUSED)
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
    """A tokenizer of pieces and scores; by default, as in llama.cpp, a BOS and a space precede a text."""
    tokens, scores = _read_list(fields, "tokens", str), _read_list(fields, "scores", float)
    kinds = (
        _read_list(fields, "token_type", int)
        if "tokenizer.ggml.token_type" in fields
        else [NORMAL] * len(tokens)
    )
    if "tokenizer.ggml.merges" in fields or fields.get("tokenizer.ggml.precompiled_charsmap"):
        raise ValueError("tokenizer.ggml.model 'llama' with merges or precompiled_charsmap is not supported")
    if not all(map(math.isfinite, scores)):
        raise ValueError("tokenizer.ggml.scores must be finite numbers")
    space = fields.get("tokenizer.ggml.add_space_prefix", True)
    return from_pieces(tokens, scores, kinds, space_first=bool(space), prefix=_bos_prefix(fields))


def _read_list(fields: Mapping[str, Any], name: str, kind: type) -> Sequence[Any]:
    """One of the lists, with all entries of one type."""
    found = fields.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not found:
        raise ValueError(f"tokenizer.ggml.{name} is missing or empty")
    if other := [(i, value) for i, value in enumerate(found) if type(value) is not kind]:
        raise ValueError(
            f"tokenizer.ggml.{name}[{other[0][0]}]: expected {kind.__name__}, got {str(other[0][1])[:60]!r}"
        )
    return found


def _bos_prefix(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """The BOS before every text, if any; by default, as in llama.cpp, Llama 3's pattern has one."""
    pre = fields.get("tokenizer.ggml.pre")
    default = fields["tokenizer.ggml.model"] == "llama" or PATTERNS.get(str(pre), ("",))[0] == "llama3"
    for name in ("add_bos_token", "add_eos_token"):
        if not isinstance(value := fields.get(f"tokenizer.ggml.{name}", False), bool):
            raise ValueError(f"tokenizer.ggml.{name}: expected true or false, got {str(value)[:60]}")
    if fields.get("tokenizer.ggml.add_eos_token"):
        raise ValueError("tokenizer.ggml.add_eos_token is set, which would end prompts too; not supported")
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
