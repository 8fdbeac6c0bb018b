"""A tokenizer written as Hugging Face's tokenizer.json; `json_reader` reads one.

The file names a pipeline: normalizer (NFC), pre_tokenizer (how text is cut), model (BPE), post_processor (the template
around a text), decoder.

Source: the format as read by Hugging Face tokenizers 0.23.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec, token_ids
from data_pipes.tokenizer.split import PATTERNS

BYTE_LEVEL: Mapping[str, Any] = MappingProxyType(
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
)
DIGITS: Mapping[str, Any] = MappingProxyType({"type": "Digits", "individual_digits": True})
ANY_TEXT = r"[\s\S]+"  # the pattern that leaves a text whole: in the file, no pre_tokenizer


def to_json(tokenizer: Tokenizer) -> str:
    """Writes a tokenizer as the text of a tokenizer.json, which Hugging Face tokenizers and transformers load.

    Args:
        tokenizer: from `train`, `load` or `from_spec`.

    Returns:
        JSON, a line a token; merges as pairs. `from_json` gives an equal spec back.

    Edge cases: with an expression of one's own as pattern, the other library may read the expression differently.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a", "b", "ab"), merges=(("a", "b"),), pattern="gpt2")
        >>> from data_pipes.tokenizer.encoder import from_spec
        >>> json.loads(to_json(from_spec(spec)))["model"]["merges"]
        [['a', 'b']]
    """
    spec = tokenizer.spec
    byte_level = spec.kind == "byte_level"
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token) for token in sorted(spec.added_tokens, key=lambda token: token.id)],
        "normalizer": {"type": "NFC"} if spec.nfc else None,
        "pre_tokenizer": _pre_tokenizer(spec),
        "post_processor": _post_processor(tokenizer),
        "decoder": dict(BYTE_LEVEL) if byte_level else {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": spec.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": spec.fuse_unk,
            "byte_fallback": False,
            "ignore_merges": spec.ignore_merges,
            "vocab": token_ids(spec),
            "merges": [list(pair) for pair in spec.merges],
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a digest of everything that decides an id: equal for equal specs, 64 hexadecimal digits.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a",), merges=(), pattern="gpt2")
        >>> from data_pipes.tokenizer.encoder import from_spec
        >>> fingerprint(from_spec(spec)) == fingerprint(from_spec(spec)), len(fingerprint(from_spec(spec)))
        (True, 64)
    """
    return hashlib.sha256(to_json(tokenizer).encode()).hexdigest()


def _added(token: AddedToken) -> dict[str, Any]:
    """An added token as the format has it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": token.id, "content": token.content, **plain, "normalized": token.normalized, "special": token.special}


def _pre_tokenizer(spec: TokenizerSpec) -> dict[str, Any] | None:
    """How text is cut: in the form in which each pattern's own model writes it."""
    if spec.kind == "byte_level" and spec.pattern == "gpt2":
        return dict(BYTE_LEVEL)
    if spec.kind == "byte_level" and spec.pattern == "smollm2":
        return {"type": "Sequence", "pretokenizers": [dict(DIGITS), dict(BYTE_LEVEL)]}
    if spec.kind == "character" and spec.pattern == ANY_TEXT:
        return None
    expression = PATTERNS[spec.pattern].unicode if spec.pattern in PATTERNS else spec.pattern
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    if spec.kind == "character":
        return split
    return {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}


def _post_processor(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The template of prefix and suffix; for byte-level tokenizers the part that they all have, which changes no id."""
    spec = tokenizer.spec
    byte_level = dict(BYTE_LEVEL) if spec.kind == "byte_level" else None
    if not spec.prefix and not spec.suffix:
        return byte_level
    names = dict(enumerate(spec.vocab)) | {token.id: token.content for token in spec.added_tokens}
    before, after = (
        [{"SpecialToken": {"id": names[i], "type_id": 0}} for i in part] for part in (spec.prefix, spec.suffix)
    )
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [*before, first, *after],
        "pair": [*before, first, *after, *before, second, *after],
        "special_tokens": {
            names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]} for i in spec.prefix + spec.suffix
        },
    }
    return {"type": "Sequence", "processors": [byte_level, template]} if byte_level else template
