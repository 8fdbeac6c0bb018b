"""Docstrings of our form as units of translation, and the translations in the same form.

A unit is the first line, a paragraph, an item of Args, Raises, Fields or Steps, or an indented block that
holds words. Doctests and other indented blocks (formulas) are no units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from stages.teach.wrap import wrap

HEADINGS = (
    "Args:",
    "Returns:",
    "Yields:",
    "Steps:",
    "Edge cases:",
    "Raises:",
    "Fields:",
    "Example:",
    "Source:",
    "Shape letters:",
)
"""Headings of sections, alone on a line or at the start of a paragraph."""

LISTS = ("Args:", "Raises:", "Fields:", "Steps:")
"""Sections whose lines are items."""

MARK = re.compile(r"(?:\d{1,2}\.|-) ")
"""Start of an item of a list."""

NAMED = re.compile(r"\(?[\w*.`]+(?:, [\w*.`]+)*\)?: ")
"""Start of an item with a name."""

SYMBOLS = re.compile(r"`[^`]*`|\[[^\]]*\]|\b(?:dtype|bool|u?int\d+|b?float\d+)\b")
"""Code, shapes and dtypes."""

WORD = re.compile(r"[A-Za-z]{2,}")
"""A word, by which a text is told from symbols."""

WORDS = re.compile(r"\b[A-Za-z][a-z]+ [a-z]{2,}\b")
"""Two words, by which a block is told from a formula."""


class Unit(NamedTuple):
    """A text that is translated as a whole.

    Fields:
        text: the key in a catalogue: one line with single spaces, or the lines of an indented block.
        place: where it stands: section, or "".
    """

    text: str
    place: str


class Block(NamedTuple):
    """Lines of a docstring, without the margin.

    Fields:
        kind: "text", "formula", "heading" or "fixed", which is never translated.
        lines: as they are.
        key: to translate; "" for "fixed".
        lead: what stands before the translation: an indentation, a number, a heading.
        rest: what the other lines begin with.
        heading: one of HEADINGS that the text begins with, or "".
        section: heading of the section that it stands in, or "".
    """

    kind: str
    lines: list[str]
    key: str = ""
    lead: str = ""
    rest: str = ""
    heading: str = ""
    section: str = ""


def split_docstring(text: str) -> list[Unit]:
    """Lists the units of a docstring.

    Args:
        text: what stands between the quotes in the source.

    Returns:
        The units in order, headings not included.

    Example:
        >>> text = "Doubles.\\n\\n    y = 2 x\\n\\nArgs:\\n    x: [B] float,\\n        any.\\n"
        >>> [unit.text for unit in split_docstring(text)]
        ['Doubles.', 'x: [B] float, any.']
    """
    blocks = _split_blocks(text.split("\n"), _find_margin(text))
    return [Unit(block.key, block.section) for block in blocks if _is_unit(block)]


def translate_docstring(text: str, catalogue: Mapping[str, str], width: int = 110) -> str:
    """Puts translations at the places of the units.

    A unit without a translation, a doctest and a formula stay as they are.

    Args:
        text: what stands between the quotes in the source.
        catalogue: unit -> translation; headings are looked up too.
        width: columns of a line at most, quotes included; a Chinese character takes two.

    Returns:
        The text in the same structure, with the same margin.

    Example:
        >>> text = "Doubles.\\n\\nArgs:\\n    x: any.\\n"
        >>> print(translate_docstring(text, {"Args:": "参数：", "x: any.": "x: 任意。"}))
        Doubles.
        <BLANKLINE>
        参数：
            x: 任意。
        <BLANKLINE>
    """
    margin, body = _find_margin(text), text.rstrip(" ")
    lines = [
        line
        for number, block in enumerate(_split_blocks(body.split("\n"), margin))
        for line in _render(block, catalogue, width - margin - (6 if number == 0 else 0))
    ]
    first, others = lines[0], [" " * margin + line if line else "" for line in lines[1:]]
    return "\n".join([first, *others]) + text[len(body) :]


def _is_unit(block: Block) -> bool:
    """Tells if a block is to be translated."""
    if block.kind == "formula":
        return WORDS.search(block.key) is not None
    text = SYMBOLS.sub("", NAMED.sub("", block.key, count=1))
    return block.kind == "text" and WORD.search(text) is not None


def _render(block: Block, catalogue: Mapping[str, str], width: int) -> list[str]:
    """The lines of a block in the other language."""
    translation = catalogue.get(block.key, "")
    if not translation:
        return block.lines
    if block.kind == "heading":
        return [translation]
    if block.kind == "formula":
        return [block.lead + line if line else line for line in translation.split("\n")]
    heading = catalogue.get(block.heading, block.heading)
    space = " " if heading.endswith(":") else ""
    return wrap(translation, width, block.lead + heading + space, block.rest)


def _find_margin(text: str) -> int:
    """Indentation of a docstring's lines after the first."""
    return min((_indent(line) for line in text.split("\n")[1:] if line.strip()), default=0)


def _split_blocks(lines: list[str], margin: int) -> list[Block]:
    """All lines, in blocks."""
    lines = [lines[0], *(line[margin:] for line in lines[1:])]
    blocks: list[Block] = []
    section, hang, number = "", 0, 0
    while number < len(lines):
        line = lines[number]
        if not line.strip():
            block = Block("fixed", [line])
        elif line.lstrip().startswith(">>>"):
            block = Block("fixed", lines[number : _find_blank(lines, number)])
        elif line in HEADINGS:
            section = line
            block = Block("heading", [line], line)
        else:
            if _indent(line) == 0:
                section = ""
            base = 4 if section else 0
            block = _take_text(lines, number, section, base, hang)
            hang = len(block.rest) if block.lead.strip() or section in LISTS else base
        blocks.append(block)
        number += len(block.lines)
    return blocks


def _take_text(lines: list[str], number: int, section: str, base: int, hang: int) -> Block:
    """The block of prose, or formula, that begins at a line."""
    line = lines[number]
    indent = _indent(line)
    if indent != base and indent != hang:
        return _take_formula(lines, number, section, base)
    mark = MARK.match(line, indent)
    lead = line[:indent] + (mark.group() if mark else "")
    rest = " " * len(lead)
    following = lines[number + 1] if number + 1 < len(lines) else ""
    is_item = section in LISTS or (section == "Returns:" and NAMED.match(line, indent))
    if is_item and indent == base and (_indent(following) != len(lead) or not mark):
        rest = " " * (base + 4)
    heading = next((name for name in HEADINGS if indent == 0 and line.startswith(name + " ")), "")
    end = number + 1
    while end < len(lines) and _continues(lines[end], len(rest)):
        end += 1
    text = " ".join(" ".join([line[len(lead) + len(heading) :], *lines[number + 1 : end]]).split())
    return Block("text", lines[number:end], text, lead, rest, heading, section or heading)


def _take_formula(lines: list[str], number: int, section: str, base: int) -> Block:
    """The lines that are indented deeper than the text around them."""
    end = number + 1
    smallest = _indent(lines[number])
    while end < len(lines) and lines[end].strip() and not lines[end].lstrip().startswith(">>>"):
        indent = _indent(lines[end])
        if indent < smallest and indent <= base + 4 and smallest > base + 4:
            break
        if indent <= base:
            break
        smallest = min(smallest, indent)
        end += 1
    block = lines[number:end]
    key = "\n".join(line[smallest:] for line in block)
    return Block("formula", block, key, " " * smallest, "", "", section)


def _continues(line: str, indent: int) -> bool:
    """Tells if a line belongs to the text before it."""
    is_start = line in HEADINGS or MARK.match(line, indent) or line.lstrip().startswith(">>>")
    return bool(line.strip()) and _indent(line) == indent and not is_start


def _find_blank(lines: list[str], start: int) -> int:
    """Number of the next blank line, or of lines."""
    return next((n for n in range(start, len(lines)) if not lines[n].strip()), len(lines))


def _indent(line: str) -> int:
    """Spaces at the start of a line."""
    return len(line) - len(line.lstrip(" "))
