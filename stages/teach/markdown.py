"""Pages in Markdown as units of translation: headings, paragraphs, items, rows of tables, blocks of code."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stages.teach.docstring import WORD, WORDS, Unit

LEAD = re.compile(r"\s*(?:#+ |[-*] |\d+\. |> )?")
"""What stands before the words of a line."""

RULE = re.compile(r"[\s|:-]*")
"""A line between the head and the body of a table, or a blank one."""


def split_markdown(text: str) -> list[Unit]:
    """Lists the units of a page.

    A block of code is a unit only if it holds two words side by side, as a picture does.

    Args:
        text: a page, one line for each paragraph and each item.

    Returns:
        The units in order.

    Example:
        >>> [u.text for u in split_markdown("# Loss\\n\\n- Read `dpo.py`.\\n\\n| a | mean |\\n|---|\\n")]
        ['Loss', 'Read `dpo.py`.', '| a | mean |']
    """
    heading = ""
    units: list[Unit] = []
    for lead, key in _split_parts(text):
        if lead.startswith("#"):
            heading = key
        if key:
            units.append(Unit(key, heading))
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
    return "\n".join(lead + (catalogue.get(key, "") or key) for lead, key in _split_parts(text))


def _split_parts(text: str) -> list[tuple[str, str]]:
    """Lead and text of each unit; lines that are none are leads of ""."""
    parts: list[tuple[str, str]] = []
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.lstrip().startswith("```"):
            end = next((n for n in range(number, len(lines)) if lines[n].strip() == "```"), len(lines))
            block = "\n".join(lines[number:end])
            parts.append((line, ""))
            parts.append(("", block) if WORDS.search(block) else (block, ""))
            number = end
            if number < len(lines):
                parts.append((lines[number], ""))
                number += 1
        elif RULE.fullmatch(line) or not WORD.search(line):
            parts.append((line, ""))
        else:
            lead = LEAD.match(line)
            start = lead.end() if lead else 0
            parts.append((line[:start], line[start:]))
    return parts
