"""Faults of a translation that can be found without reading it."""

from __future__ import annotations

import re
from collections import Counter
from string import Formatter

from stages.teach.docstring import NAMED
from stages.teach.punctuation import HAN, widen_punctuation

CODE = re.compile(r"`[^`]*`")
"""A code span."""

GAP = re.compile(rf"[{HAN}][A-Za-z0-9`]|[A-Za-z0-9`][{HAN}]")
"""A Chinese character beside a letter, a digit or a code span."""


def find_faults(text: str, translation: str, is_message: bool = False) -> list[str]:
    """Lists the faults of a translation.

    Args:
        text: a unit, in English.
        translation: of it.
        is_message: the unit has format fields.

    Returns:
        A sentence for each: code spans, the name of an item, fields or the number of lines differ; or the
        translation cannot stand in a docstring; or a mark beside a Chinese character is not full-width; or a
        word stands beside one without a blank.

    Example:
        >>> find_faults("Mean of `x`.", "均值.")
        ["code spans: expected ['`x`'], got []", 'punctuation: expected 均值。']
    """
    faults: list[str] = []
    ours, theirs = CODE.findall(text), CODE.findall(translation)
    if Counter(ours) != Counter(theirs):
        faults.append(f"code spans: expected {ours}, got {theirs}")
    name = NAMED.match(text)
    if (
        name
        and not is_message
        and "\n" not in text
        and _is_identifier(name.group())
        and not translation.startswith(name.group())
    ):
        faults.append(f"expected to start with {name.group()!r}")
    if is_message and _fields(text) != _fields(translation):
        faults.append(f"fields: expected {_fields(text)}, got {_fields(translation)}")
    if text.count("\n") != translation.count("\n"):
        faults.append(f"expected {text.count(chr(10)) + 1} lines, got {translation.count(chr(10)) + 1}")
    if '"""' in translation or (translation.endswith(("\\", '"')) and not text.endswith(("\\", '"'))):
        faults.append('expected no """, and no \\ or " at the end')
    if translation != translation.strip() and text == text.strip():
        faults.append("expected no spaces at the ends")
    if widen_punctuation(translation) != translation:
        faults.append(f"punctuation: expected {widen_punctuation(translation)}")
    if gap := GAP.search(CODE.sub("`", translation)):
        faults.append(f"expected a blank inside {gap.group()!r}")
    return faults


def _is_identifier(name: str) -> bool:
    """Tells if the name of an item is one of the code, not a word such as "Plain"."""
    words = name.strip(": ").split(", ")
    return all((word.isidentifier() and word == word.lower()) or word.endswith("Error") for word in words)


def _fields(text: str) -> list[str]:
    """Format fields with their specifications, sorted."""
    parsed = Formatter().parse(text)
    return sorted(f"{name}!{conversion}:{spec}" for _, name, spec, conversion in parsed if name is not None)
