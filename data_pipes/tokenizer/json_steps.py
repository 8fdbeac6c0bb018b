"""Read and write the steps of normalizer, pre_tokenizer and decoder in tokenizer.json.

Every type of step has a table of its options; any other type, option or value is refused by name.

Source: the format as written by Hugging Face tokenizers 0.23, and by older versions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import regex

from data_pipes.tokenizer.pieces import BEHAVIORS, check_expression
from data_pipes.tokenizer.step import Step, step, step_options

MAX_STEPS = 32
MAX_GROWTH = 256
"""Largest factor by which the replacements of a part may lengthen a text."""


class Option(NamedTuple):
    """One option of a step.

    Fields:
        allows: value -> True if the value is supported.
        expected: description of the supported values, for error messages.
        default: value for a file that lacks the option; "required" if a file must have it.
        kept: True if the option changes the result of the step; others are checked and dropped.
    """

    allows: Callable[[Any], bool]
    expected: str
    default: Any = "required"
    kept: bool = True


def _bool_option(default: Any = "required", kept: bool = True) -> Option:
    return Option(lambda value: type(value) is bool, "true or false", default, kept)


def _is_text(value: Any) -> bool:
    """True for a string that UTF-8 can encode."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_pattern(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) == 1
        and next(iter(value)) in ("String", "Regex")
        and _is_text(text := next(iter(value.values())))
        and bool(text)
    )


def _choice_option(names: tuple[str, ...], default: Any = "required") -> Option:
    return Option(lambda value: isinstance(value, str) and value in names, " or ".join(names), default)


TEXT = Option(_is_text, "text")
CHARACTER = Option(lambda value: _is_text(value) and len(value) == 1, "one character")
PATTERN = Option(_is_pattern, '{"String": text} or {"Regex": expression}, not empty')
COUNT = Option(lambda value: type(value) is int and 0 <= value < 1000, "a number from 0 to 999")
UNUSED = _bool_option(True, kept=False)

BYTE_LEVEL_OPTIONS: Mapping[str, Option] = {
    "add_prefix_space": _bool_option(False),
    "trim_offsets": UNUSED,
    "use_regex": _bool_option(True),
}
METASPACE_OPTIONS: Mapping[str, Option] = {
    "replacement": CHARACTER,
    "prepend_scheme": _choice_option(("always", "first", "never"), "always"),
    "split": _bool_option(True),
    "add_prefix_space": Option(
        lambda value: value is None or type(value) is bool, "true or false", None, False
    ),
    "str_rep": Option(lambda value: value is None or _is_text(value), "text", None, False),
}

NORMALIZERS: Mapping[str, Mapping[str, Option]] = {
    **{name: {} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "ByteLevel")},
    "Prepend": {"prepend": TEXT},
    "Replace": {"pattern": PATTERN, "content": TEXT},
    "Strip": {"strip_left": _bool_option(), "strip_right": _bool_option()},
}
PRE_TOKENIZERS: Mapping[str, Mapping[str, Option]] = {
    "ByteLevel": BYTE_LEVEL_OPTIONS,
    "Split": {"pattern": PATTERN, "behavior": _choice_option(BEHAVIORS), "invert": _bool_option(False)},
    "Digits": {"individual_digits": _bool_option(False)},
    "Punctuation": {"behavior": _choice_option(BEHAVIORS, "Isolated")},
    "Whitespace": {},
    "WhitespaceSplit": {},
    "CharDelimiterSplit": {"delimiter": CHARACTER},
    "Metaspace": METASPACE_OPTIONS,
}
DECODERS: Mapping[str, Mapping[str, Option]] = {
    "ByteLevel": {name: option._replace(kept=False) for name, option in BYTE_LEVEL_OPTIONS.items()},
    "ByteFallback": {},
    "Fuse": {},
    "Replace": {"pattern": PATTERN, "content": TEXT},
    "Strip": {"content": CHARACTER, "start": COUNT, "stop": COUNT},
    "Metaspace": METASPACE_OPTIONS,
    "BPEDecoder": {"suffix": TEXT},
    "WordPiece": {"prefix": TEXT, "cleanup": _bool_option()},
}
FIELDS: Mapping[str, tuple[str, Mapping[str, Mapping[str, Option]]]] = {
    "normalizer": ("normalizers", NORMALIZERS),
    "pre_tokenizer": ("pretokenizers", PRE_TOKENIZERS),
    "decoder": ("decoders", DECODERS),
}
"""Part -> (field of a Sequence that lists the steps, type of a step -> its options)."""


def read_steps(node: Any, part: str, any_pattern: bool = False) -> tuple[Step, ...]:
    """Reads a part: null, one step, or a Sequence of steps.

    Args:
        node: value of the part in the file.
        part: "normalizer", "pre_tokenizer" or "decoder".
        any_pattern: accept every regular expression that compiles.

    Returns:
        The steps; nested Sequences are flattened.

    Raises:
        ValueError: if anything is not supported; the message has the part, the type or option, and its value.

    Example:
        >>> read_steps({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, "normalizer")
        (Step(type='NFC', options=()),)
    """
    steps = tuple(_read_step(item, part, any_pattern) for item in _flatten(node, part))
    if len(steps) > MAX_STEPS:
        raise ValueError(f"tokenizer.json: {part} has {len(steps)} steps; at most {MAX_STEPS} are supported")
    growth = 1
    for options in (step_options(item) for item in steps if item.type == "Replace"):
        kind, pattern = options["pattern"]
        growth *= max(1, -(-len(options["content"]) // (len(pattern) if kind == "String" else 1)))
    if growth > MAX_GROWTH:
        raise ValueError(
            f"tokenizer.json: {part} may make a text {growth} times longer; at most {MAX_GROWTH} is supported"
        )
    return steps


def write_steps(steps: tuple[Step, ...], part: str) -> dict[str, Any] | None:
    """Writes a part: null, one step, or a Sequence.

    Example:
        >>> write_steps((step("Prepend", prepend="▁"),), "normalizer")
        {'type': 'Prepend', 'prepend': '▁'}
    """
    nodes = [write_step(item, part) for item in steps]
    if len(nodes) < 2:
        return nodes[0] if nodes else None
    return {"type": "Sequence", FIELDS[part][0]: nodes}


def write_step(given: Step, part: str) -> dict[str, Any]:
    """Writes one step; options that do not change its result have their defaults."""
    known = FIELDS[part][1][given.type]
    unused = {
        name: option.default
        for name, option in known.items()
        if not option.kept and option.default is not None
    }
    options = unused | step_options(given)
    if "pattern" in options:
        options["pattern"] = dict([options["pattern"]])
    return {"type": given.type, **options}


def shorten(value: Any) -> str:
    """Writes a value as JSON for a message, cut to 200 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "..."


def sequence_items(node: Any, part: str, field: str) -> list[Any]:
    """Lists the items of a part: none for null, those of a Sequence, else the part itself.

    Args:
        node: value of the part in the file.
        part: name of the part, for messages.
        field: the field of a Sequence that lists its items.

    Returns:
        The items, unchecked.

    Raises:
        ValueError: if a Sequence has another field, or its items are not a list.
    """
    if not isinstance(node, dict) or node.get("type") != "Sequence":
        return [] if node is None else [node]
    if unknown := [key for key in node if key not in ("type", field)]:
        raise ValueError(f"tokenizer.json: {part} has the field {unknown[0]!r}, which is not supported")
    if not isinstance(node.get(field), list):
        raise ValueError(f"tokenizer.json: {part}.{field} must be a list, got {shorten(node.get(field))}")
    return node[field]


def _flatten(node: Any, part: str) -> list[Any]:
    """The steps of a part, with nested Sequences replaced by their steps."""
    steps: list[Any] = []
    for item in sequence_items(node, part, FIELDS[part][0]):
        if isinstance(item, dict) and item.get("type") == "Sequence":
            steps += _flatten(item, part)
        else:
            steps.append(False if item is None else item)  # a null step is refused
    return steps


def _read_step(node: Any, part: str, any_pattern: bool) -> Step:
    """Reads one step, and checks its type and its options."""
    types = FIELDS[part][1]
    if not isinstance(node, dict):
        raise ValueError(f"tokenizer.json: {part} must be an object, got {shorten(node)}")
    name = node.get("type")
    if not isinstance(name, str) or name not in types:
        raise ValueError(f"tokenizer.json: {part}.type is {shorten(name)}; supported are {', '.join(types)}")
    if unknown := [key for key in node if key != "type" and key not in types[name]]:
        raise ValueError(
            f"tokenizer.json: {part} {name} has the field {unknown[0]!r}, which is not supported"
        )
    kept: dict[str, Any] = {}
    for key, option in types[name].items():
        value = node.get(key, option.default)
        if (key not in node and option.default == "required") or (key in node and not option.allows(value)):
            actual = shorten(node[key]) if key in node else "missing"
            raise ValueError(
                f"tokenizer.json: {part} {name}.{key} is {actual}; supported is {option.expected}"
            )
        if key == "pattern":
            value = next(iter(value.items()))
            _check_pattern(value, f"{part} {name}", any_pattern)
        kept |= {key: value} if option.kept else {}
    if name == "Metaspace" and node.get("add_prefix_space") is False and kept["prepend_scheme"] != "never":
        raise ValueError(
            f"tokenizer.json: {part} Metaspace.add_prefix_space is false, but prepend_scheme is "
            f'{shorten(kept["prepend_scheme"])}; write "never"'
        )
    return step(name, **kept)


def _check_pattern(pattern: tuple[str, str], where: str, any_pattern: bool) -> None:
    """Refuses a regular expression that Python may match differently, or with capturing groups."""
    kind, text = pattern
    try:
        if kind == "Regex" and not any_pattern:
            check_expression(text)
        elif kind == "Regex" and regex.compile(text).groups:
            raise ValueError(
                f"the expression {text!r:.300} has a capturing group; write (?:...) instead of (...)"
            )
    except (ValueError, regex.error) as error:
        why = "" if any_pattern else "; if you trust it, pass any_pattern=True"
        raise ValueError(f"tokenizer.json: {where}.pattern: {error}{why}") from None
