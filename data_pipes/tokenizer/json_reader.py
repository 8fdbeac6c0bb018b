"""Reading Hugging Face's tokenizer.json; `json_writer` writes one.

Of all that may stand in the file, this reads what our tokenizers can do (BPE, byte-level or on characters, the split
patterns of `split`, NFC, added tokens, a template around a text) and refuses everything else by name: a field that is
passed over would give other ids in silence.

Source: the format as written by Hugging Face tokenizers 0.23, and by older versions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.json_writer import ANY_TEXT
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec
from data_pipes.tokenizer.split import PATTERNS

BYTE_LEVEL_FIELDS: Mapping[str, tuple] = {"add_prefix_space": (False,), "trim_offsets": (True, False)}


def from_json(text: str, *, any_pattern: bool = False) -> Tokenizer:
    """Reads the text of a tokenizer.json.

    Args:
        text: JSON, as Hugging Face tokenizers and `to_json` write it.
        any_pattern: accept split expressions that are not in `split.PATTERNS`. Two libraries may understand an
            expression differently, and one made by a stranger may take forever; so ask for it only if you know it.

    Returns:
        A Tokenizer that gives the ids which Hugging Face tokenizers gives with `add_special_tokens=False`: with
        special="all" those of its default, with special="none" those of `encode_special_tokens = True`.

    Steps:
        1. Parse; refuse what is not JSON, is nested too deep, or has a key twice.
        2. Refuse unknown fields.
        3. Read each part of the pipeline.
        4. `TokenizerSpec` checks that the parts fit.

    Edge cases: merges may be ["a b"] or [["a", "b"]]. The template for pairs of texts is passed over.

    Raises:
        ValueError: if it is damaged, or has a part that is not understood; the message names the part and its content.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a", "b", "ab"), merges=(("a", "b"),), pattern="gpt2")
        >>> from data_pipes.tokenizer.json_writer import to_json
        >>> from_json(to_json(from_spec(spec))).spec == spec
        True
    """
    # 1. JSON.
    content = _parse(text)
    # 2. Fields.
    parts = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
    _check(content, "tokenizer.json", {"version": ("1.0",), "truncation": (None,), "padding": (None,)}, parts)
    # 3. Parts.
    model = _read_model(content.get("model"))
    kind, pattern = _read_pre_tokenizer(content.get("pre_tokenizer"), any_pattern)
    _read_decoder(content.get("decoder"), kind)
    prefix, suffix = _read_post_processor(content.get("post_processor"))
    # 4. The whole.
    try:
        spec = TokenizerSpec(
            kind=kind,
            pattern=pattern,
            added_tokens=_read_added(content.get("added_tokens")),
            nfc=_read_normalizer(content.get("normalizer")),
            prefix=prefix,
            suffix=suffix,
            **model,
        )
    except ValueError as error:
        raise ValueError(f"tokenizer.json: {error}") from None
    return from_spec(spec)


def _parse(text: str) -> dict[str, Any]:
    """Text -> the object in it."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            twice = Counter(key for key, _ in items).most_common(1)[0][0]
            raise ValueError(f"the key {twice!r} stands twice in one object")
        return result

    def integer(digits: str) -> int:
        if len(digits) > 18:
            raise ValueError(f"the number {digits[:18]}... is too large")
        return int(digits)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        content = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
    except RecursionError:
        raise ValueError("tokenizer.json: nested too deep; no tokenizer needs that") from None
    except ValueError as error:
        raise ValueError(f"tokenizer.json: damaged, it is not JSON ({error}); fetch the file again") from None
    return content


def _read_model(node: Any) -> dict[str, Any]:
    """model -> the fields of TokenizerSpec that it decides."""
    fixed = {
        "type": ("BPE",),
        "dropout": (None, 0.0, 0),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "fuse_unk": (False, True),
        "byte_fallback": (False,),
        "ignore_merges": (False, True),
    }
    _check(node, "model", fixed, ("vocab", "merges", "unk_token"))
    return {
        "vocab": _read_vocab(node.get("vocab")),
        "merges": tuple(_read_merges(node.get("merges"))),
        "ignore_merges": node.get("ignore_merges", False),
        "unk_token": node.get("unk_token"),
        "fuse_unk": node.get("fuse_unk", False) and node.get("unk_token") is not None,
    }


def _read_vocab(node: Any) -> tuple[str, ...]:
    """{token: id} -> tokens by id; the ids must be 0, 1, ... without a gap."""
    if not isinstance(node, dict) or not all(type(i) is int for i in node.values()):
        raise ValueError("tokenizer.json: model.vocab must be an object of token: id, ids being integers")
    tokens = sorted(node, key=node.__getitem__)
    for expected, token in enumerate(tokens):
        if node[token] != expected:
            raise ValueError(
                f"tokenizer.json: the ids of model.vocab must be 0 ... {len(tokens) - 1}, each once; "
                f"{token!r} has {node[token]} where {expected} is due"
            )
    return tuple(tokens)


def _read_merges(node: Any) -> list[tuple[str, str]]:
    """["a b", ...] or [["a", "b"], ...] -> pairs. Of a pair that is given twice the last place counts."""
    if not isinstance(node, list):
        raise ValueError(f"tokenizer.json: model.merges must be a list, got {_short(node)}")
    merges = []
    for rank, item in enumerate(node):
        pair = item.split(" ") if isinstance(item, str) else item
        if isinstance(item, str) and item.startswith("#version"):
            continue
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ValueError(f'tokenizer.json: merge {rank} must be "a b" or ["a", "b"], got {_short(item)}')
        merges.append((pair[0], pair[1]))
    return merges


def _read_pre_tokenizer(node: Any, any_pattern: bool) -> tuple[str, str]:
    """pre_tokenizer -> (kind, pattern)."""
    steps = _steps(node, "pre_tokenizer", "pretokenizers")
    names = [step.get("type") if isinstance(step, dict) else str(step) for step in steps]
    if names not in ([], ["Split"], ["ByteLevel"], ["Digits", "ByteLevel"], ["Split", "ByteLevel"]):
        raise ValueError(
            f"tokenizer.json: pre_tokenizer {_short(node)} is not understood; known are ByteLevel, Split, "
            "[Split, ByteLevel] and [Digits, ByteLevel]"
        )
    if names and names[-1] == "ByteLevel":
        last = {"use_regex": True, **steps[-1]}
        _check(last, "ByteLevel", {"type": ("ByteLevel",), **BYTE_LEVEL_FIELDS, "use_regex": (names[0] != "Split",)})
    if not names:
        return "character", ANY_TEXT
    if names[0] == "Split":
        return ("character" if len(names) == 1 else "byte_level"), _read_split(steps[0], any_pattern)
    if names[0] == "Digits":
        _check(steps[0], "Digits", {"type": ("Digits",), "individual_digits": (True,)})
    return "byte_level", "smollm2" if names[0] == "Digits" else "gpt2"


def _steps(node: Any, where: str, field: str) -> list[Any]:
    """A part of the pipeline -> its steps: none for null, those of a Sequence, else the part itself."""
    if not isinstance(node, dict) or node.get("type") != "Sequence":
        return [] if node is None else [node]
    _check(node, where, {"type": ("Sequence",)}, (field,))
    if not isinstance(node.get(field), list):
        raise ValueError(f"tokenizer.json: {where}.{field} must be a list, got {_short(node.get(field))}")
    return node[field]


def _read_split(node: Any, any_pattern: bool) -> str:
    """Split -> the name of its pattern, or the expression itself."""
    _check(node, "pre_tokenizer", {"type": ("Split",), "behavior": ("Isolated",), "invert": (False,)}, ("pattern",))
    pattern = node.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) and len(pattern) == 1 else None
    names = [name for name, known in PATTERNS.items() if known.unicode == expression]
    if names:
        return names[0]
    if any_pattern and isinstance(expression, str):
        return expression
    raise ValueError(
        f"tokenizer.json: the split pattern {_short(pattern)} is none of {', '.join(PATTERNS)}; "
        "if you trust it, and know that it means the same here, pass any_pattern=True"
    )


def _read_normalizer(node: Any) -> bool:
    """normalizer -> whether it is NFC."""
    steps = _steps(node, "normalizer", "normalizers")
    for step in steps:
        _check(step, "normalizer", {"type": ("NFC",)})
    return bool(steps)


def _read_decoder(node: Any, kind: str) -> None:
    """The decoder must be the one that undoes the pre_tokenizer."""
    if kind == "byte_level":
        every = {"add_prefix_space": (True, False), "trim_offsets": (True, False), "use_regex": (True, False)}
        _check(node, "decoder", {"type": ("ByteLevel",), **every})
    else:
        _check(node, "decoder", {"type": ("Fuse",)})


def _read_post_processor(node: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """post_processor -> (prefix, suffix). The byte-level one moves offsets, never ids."""
    steps = _steps(node, "post_processor", "processors")
    steps = [step for step in steps if not (isinstance(step, dict) and step.get("type") == "ByteLevel")]
    if not steps:
        return (), ()
    if len(steps) > 1:
        raise ValueError(f"tokenizer.json: post_processor {_short(node)} has more than one template")
    _check(steps[0], "post_processor", {"type": ("TemplateProcessing",)}, ("single", "pair", "special_tokens"))
    return _read_template(steps[0].get("single"), steps[0].get("special_tokens"))


def _read_template(pieces: Any, specials: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """single: special tokens, the text A, special tokens -> their ids on both sides."""
    sides: list[list[int]] = [[]]
    try:
        for piece in pieces:
            if "Sequence" in piece and piece["Sequence"]["id"] == "A":
                sides.append([])
            else:
                sides[-1] += specials[piece["SpecialToken"]["id"]]["ids"]
        before, after = sides
    except (LookupError, TypeError, ValueError):
        raise ValueError(
            f"tokenizer.json: post_processor.single {_short(pieces)} is not special tokens around one text"
        ) from None
    return tuple(before), tuple(after)


def _read_added(node: Any) -> tuple[AddedToken, ...]:
    """added_tokens -> AddedToken's, by ascending id."""
    plain = {"single_word": (False,), "lstrip": (False,), "rstrip": (False,)}
    if not isinstance(node, list | None):
        raise ValueError(f"tokenizer.json: added_tokens must be a list, got {_short(node)}")
    tokens = []
    for item in node or []:
        _check(
            item, "added_tokens", {**plain, "normalized": (True, False), "special": (False, True)}, ("id", "content")
        )
        if type(item.get("id")) is not int:
            raise ValueError(f"tokenizer.json: an added token needs an integer id, got {_short(item)}")
        normalized, special = item.get("normalized", True), item.get("special", False)
        tokens.append(AddedToken(item.get("content"), item["id"], special=special, normalized=normalized))
    return tuple(sorted(tokens, key=lambda token: token.id))


def _check(node: Any, where: str, fixed: Mapping[str, tuple], others: tuple[str, ...] = ()) -> None:
    """Refuses a node that is no object, has a field of another name, or a fixed field of another value.

    A fixed field that is missing counts as its first allowed value.
    """
    if not isinstance(node, dict):
        raise ValueError(f"tokenizer.json: {where} must be an object, got {_short(node)}")
    if unknown := [key for key in node if key not in fixed and key not in others]:
        raise ValueError(f"tokenizer.json: {where} has the field {unknown[0]!r}, which is not understood here")
    for key, allowed in fixed.items():
        value = node.get(key, allowed[0])
        if not any(type(value) is type(a) and value == a for a in allowed):
            can = " or ".join(json.dumps(a) for a in allowed)
            raise ValueError(f"tokenizer.json: {where}.{key} is {_short(value)}; only {can} is understood here")


def _short(value: Any) -> str:
    """A value for a message, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "..."
