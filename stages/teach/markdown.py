"""Pages in Markdown as units of translation: headings, paragraphs, items, rows of tables, blocks of code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from stages.teach.docstring import WORD, WORDS, Unit

LEAD = re.compile(r"\s*(?:#+ |[-*] |\d+\. |> )?")
"""What stands before the words of a line."""

RULE = re.compile(r"[\s|:-]*")
"""A line between the head and the body of a table, or a blank one."""


class _Part(NamedTuple):
    """Lines of a page.

    Fields:
        lead: mark before the text, such as "- ".
        key: to translate; "" for what is not.
        text: the lines as they are.
    """

    lead: str
    key: str
    text: str


def split_markdown(text: str) -> list[Unit]:
    """Lists the units of a page.

    A block of code is a unit only if it holds two words side by side, as a picture does.

    Args:
        text: a page.

    Returns:
        The units in order.

    Example:
        >>> [u.text for u in split_markdown("# Loss\\n\\n- Read `dpo.py`.\\n\\n| a | mean |\\n|---|\\n")]
        ['Loss', 'Read `dpo.py`.', '| a | mean |']
    """
    heading = ""
    units: list[Unit] = []
    for part in _split_parts(text):
        if part.lead.startswith("#"):
            heading = part.key
        if part.key:
            units.append(Unit(part.key, heading))
    return units


def translate_markdown(text: str, catalogue: Mapping[str, str]) -> str:
    """Puts translations at the places of the units; a unit without one stays as it is.

    Args:
        text: a page.
        catalogue: unit -> translation.

    Returns:
        The page.

    Example:
        >>> translate_markdown("# Loss\\n\\n1. Mean.\\n", {"Loss": "损失"})
        '# 损失\\n\\n1. Mean.\\n'
    """
    parts = _split_parts(text)
    return "\n".join(
        part.lead + catalogue[part.key] if catalogue.get(part.key) else part.text for part in parts
    )


def _split_parts(text: str) -> list[_Part]:
    """The lines of a page, in parts."""
    parts: list[_Part] = []
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.lstrip().startswith("```"):
            end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == "```"), len(lines))
            block = "\n".join(lines[number + 1 : end])
            parts.append(_Part("", "", line))
            if end > number + 1:
                parts.append(_Part("", block if WORDS.search(block) else "", block))
            parts += [_Part("", "", each) for each in lines[end : end + 1]]
            number = end + 1
        elif RULE.fullmatch(line) or (line.startswith("|") and not WORD.search(line)):
            parts.append(_Part("", "", line))
            number += 1
        else:
            end = number + 1
            lead = LEAD.match(line)
            start = lead.end() if lead else 0
            while end < len(lines) and _continues(lines[end], line, start):
                end += 1
            key = " ".join(" ".join([line[start:], *lines[number + 1 : end]]).split())
            is_plain = not WORD.search(key)
            parts.append(_Part(line[:start], "" if is_plain else key, "\n".join(lines[number:end])))
            number = end
    return parts


def _continues(line: str, first: str, start: int) -> bool:
    """Tells if a line belongs to the paragraph or item that begins with `first`."""
    if not line.strip() or first.startswith(("#", "|")) or line.lstrip().startswith(("```", "|", "#")):
        return False
    lead = LEAD.match(line)
    return not (lead and lead.group().strip()) and len(line) - len(line.lstrip()) in (0, start)
