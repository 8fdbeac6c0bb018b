"""Write a tokenizer as Hugging Face's tokenizer.json; `json_reader` reads it.

The file describes a pipeline: normalizer, pre_tokenizer (splits text), model (BPE), post_processor (the
template around a text), decoder.

Source: the format as read by Hugging Face tokenizers 0.23.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from data_pipes.digest import hash_bytes
from data_pipes.tokenizer.decoder import BYTE_LEVEL as BYTE_LEVEL_DECODER
from data_pipes.tokenizer.decoder import SPACED
from data_pipes.tokenizer.json_steps import write_step, write_steps
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec, decoder_steps, token_ids
from data_pipes.tokenizer.split import ANY_TEXT, PATTERNS

BYTE_LEVEL: Mapping[str, Any] = MappingProxyType(
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
)
DIGITS: Mapping[str, Any] = MappingProxyType({"type": "Digits", "individual_digits": True})


def to_json(tokenizer: Tokenizer) -> str:
    """Writes a tokenizer as the text of a tokenizer.json.

    Hugging Face tokenizers and transformers load such a file.

    Args:
        tokenizer: from `train`, `load` or `from_spec`.

    Returns:
        JSON text with one token per line and merges as pairs. `from_json` returns an equal spec.

    Edge cases: another library may match a custom split expression differently.

    Example:
        >>> vocab, merges = ("a", "b", "ab"), (("a", "b"),)
        >>> spec = TokenizerSpec(kind="character", vocab=vocab, merges=merges, pattern="gpt2")
        >>> from data_pipes.tokenizer.encoder import from_spec
        >>> json.loads(to_json(from_spec(spec)))["model"]["merges"]
        [['a', 'b']]
    """
    spec = tokenizer.spec
    added = sorted(spec.added_tokens, key=lambda token: token.id)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_write_added(token) for token in added],
        "normalizer": write_steps(spec.normalizer, "normalizer"),
        "pre_tokenizer": _write_pre_tokenizer(spec),
        "post_processor": _write_post_processor(tokenizer),
        "decoder": _write_decoder(spec),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": spec.unk_token,
            "continuing_subword_prefix": spec.continuing_subword_prefix or None,
            "end_of_word_suffix": spec.end_of_word_suffix or None,
            "fuse_unk": spec.fuse_unk,
            "byte_fallback": spec.byte_fallback,
            "ignore_merges": spec.ignore_merges,
            "vocab": token_ids(spec),
            "merges": [list(pair) for pair in spec.merges],
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a digest of the spec, 64 hexadecimal digits; equal specs have equal digests.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a",), merges=(), pattern="gpt2")
        >>> from data_pipes.tokenizer.encoder import from_spec
        >>> fingerprint(from_spec(spec)) == fingerprint(from_spec(spec)), len(fingerprint(from_spec(spec)))
        (True, 64)
    """
    return hash_bytes(to_json(tokenizer).encode())


def _write_added(token: AddedToken) -> dict[str, Any]:
    """An added token in the file's format."""
    return {
        "id": token.id,
        "content": token.content,
        "single_word": token.single_word,
        "lstrip": token.lstrip,
        "rstrip": token.rstrip,
        "normalized": token.normalized,
        "special": token.special,
    }


def _write_pre_tokenizer(spec: TokenizerSpec) -> dict[str, Any] | None:
    """Writes the steps, then the pattern in the form that its model's own tokenizer.json has."""
    nodes = [write_step(item, "pre_tokenizer") for item in spec.pre_tokenizer] + _write_pattern(spec)
    if len(nodes) < 2:
        return nodes[0] if nodes else None
    return {"type": "Sequence", "pretokenizers": nodes}


def _write_pattern(spec: TokenizerSpec) -> list[dict[str, Any]]:
    """Writes the pattern and, for a byte-level tokenizer, the step ByteLevel."""
    bytes_only = {**BYTE_LEVEL, "add_prefix_space": spec.prefix_space, "use_regex": spec.pattern == "gpt2"}
    to_bytes = [bytes_only] if spec.kind == "byte_level" else []
    if spec.pattern == ANY_TEXT or (to_bytes and spec.pattern == "gpt2"):
        return to_bytes
    if to_bytes and spec.pattern == "smollm2":
        return [dict(DIGITS), {**bytes_only, "use_regex": True}]
    expression = PATTERNS[spec.pattern].unicode if spec.pattern in PATTERNS else spec.pattern
    return [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False},
        *to_bytes,
    ]


def _write_decoder(spec: TokenizerSpec) -> dict[str, Any] | None:
    """Writes the decoder's steps; None (null) stands for a space between tokens."""
    steps = decoder_steps(spec)
    if steps == BYTE_LEVEL_DECODER:
        return dict(BYTE_LEVEL)
    return None if steps == SPACED else write_steps(steps, "decoder")


def _write_post_processor(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Writes the template around a text, after ByteLevel (for offsets) in byte-level tokenizers."""
    spec = tokenizer.spec
    byte_level = dict(BYTE_LEVEL) if spec.kind == "byte_level" else None
    single: tuple[int | str, ...] = (*spec.prefix, "A", *spec.suffix)
    pair: tuple[int | str, ...] = spec.pair or (*single, *spec.prefix, "B", *spec.suffix)
    if single == ("A",) and pair == ("A", "B"):
        return byte_level
    names = dict(enumerate(spec.vocab)) | {token.id: token.content for token in spec.added_tokens}

    def piece(part: int | str) -> dict[str, Any]:
        kind, name = ("Sequence", part) if isinstance(part, str) else ("SpecialToken", names[part])
        return {kind: {"id": name, "type_id": 0}}

    ids = dict.fromkeys(i for i in (*single, *pair) if isinstance(i, int))
    template = {
        "type": "TemplateProcessing",
        "single": [piece(part) for part in single],
        "pair": [piece(part) for part in pair],
        "special_tokens": {names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]} for i in ids},
    }
    return {"type": "Sequence", "processors": [byte_level, template]} if byte_level else template
