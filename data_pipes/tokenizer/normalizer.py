"""Normalize text before it is split into words, by the steps of a normalizer.

Source: the normalizers of Hugging Face tokenizers 0.23. The Unicode tables are those of Python; characters
that were assigned in later versions do not change.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from data_pipes.tokenizer.byte_level import to_characters
from data_pipes.tokenizer.normal_form import normalize
from data_pipes.tokenizer.pieces import compile_pattern
from data_pipes.tokenizer.step import Step, step_options

BLANK = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode white space; `str.strip` would also strip U+001C to U+001F."""


def normalizer(steps: Sequence[Step]) -> Callable[[str], str]:
    """Builds the function text -> normalized text, which can be pickled.

    Example:
        >>> from data_pipes.tokenizer.step import step
        >>> mark = step("Replace", pattern=("String", " "), content="▁")
        >>> normalizer((step("Prepend", prepend="▁"), mark))("a b")
        '▁a▁b'
    """
    return partial(_run_steps, tuple((STEPS[item.type], step_options(item)) for item in steps))


def _run_steps(steps: tuple[tuple[Callable, dict[str, Any]], ...], text: str) -> str:
    """Applies the steps in order."""
    for change, options in steps:
        text = change(text, **options)
    return text


def _prepend(text: str, prepend: str) -> str:
    return prepend + text if text else text


def _replace(text: str, pattern: tuple[str, str], content: str) -> str:
    if pattern[0] == "String":
        return text.replace(pattern[1], content)
    return compile_pattern(pattern).sub(lambda match: content, text)


def _strip(text: str, strip_left: bool, strip_right: bool) -> str:
    text = text.lstrip(BLANK) if strip_left else text
    return text.rstrip(BLANK) if strip_right else text


def _lowercase(text: str) -> str:
    """Lowercases each character separately, so that a final sigma is like any other, as in Rust."""
    return "".join([character.lower() for character in text])


def _strip_accents(text: str) -> str:
    return "".join([c for c in text if not unicodedata.category(c).startswith("M")])


STEPS: Mapping[str, Callable[..., str]] = {
    "NFC": partial(normalize, "NFC"),
    "NFD": partial(normalize, "NFD"),
    "NFKC": partial(normalize, "NFKC"),
    "NFKD": partial(normalize, "NFKD"),
    "Prepend": _prepend,
    "Replace": _replace,
    "Strip": _strip,
    "Lowercase": _lowercase,
    "StripAccents": _strip_accents,
    "ByteLevel": to_characters,
}
"""Type of a step -> function from (text, **options) to text."""
