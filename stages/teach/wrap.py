"""Wrap text of Chinese and Latin characters at a width in columns."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

PIECES = re.compile(r"`[^`]*`|\s+|[^\s`]+?(?=[\s`]|$)|`")
"""Code span, white space, run of other characters, or a lone backtick."""

NOT_FIRST = frozenset("，。、；：？！）】》」』”’,.;:?!)]}…")
"""Characters that do not begin a line."""

NOT_LAST = frozenset("（【《「『“‘([{")
"""Characters that do not end a line."""


class Chunk(NamedTuple):
    """A part of a text that stays on one line.

    Fields:
        spaced: a space stands before it.
        text: without spaces at its ends.
    """

    spaced: bool
    text: str


def count_columns(text: str) -> int:
    """Counts the columns of a text: two for a wide character, none for a combining one, one for any other.

    Example:
        >>> count_columns("梯度 g")
        6
    """
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Wraps a paragraph.

    A line may end at a space and between two characters of which one is wide. Code spans stay whole, and a
    punctuation mark stays with the character before it.

    Args:
        text: one line.
        width: columns of a line at most, unless one part alone is wider.
        first: what the first line begins with.
        rest: what each other line begins with.

    Returns:
        The lines.

    Example:
        >>> wrap("逐行除以范数，见 `rms_norm`。", 16, "1. ", "   ")
        ['1. 逐行除以范', '   数，见', '   `rms_norm`。']
    """
    lines: list[str] = []
    line, is_empty = first, True
    for chunk in split_chunks(text):
        joined = f"{line} {chunk.text}" if chunk.spaced and not is_empty else line + chunk.text
        if not is_empty and count_columns(joined) > width:
            lines.append(line)
            joined = rest + chunk.text
        line, is_empty = joined, False
    return [*lines, line]


def split_chunks(text: str) -> list[Chunk]:
    """Splits a paragraph where a line may end.

    Example:
        >>> [chunk.text for chunk in split_chunks("see `a b`, 梯度。")]
        ['see', '`a b`,', '梯', '度。']
    """
    chunks: list[Chunk] = []
    spaced, last = False, ""
    for piece in PIECES.findall(text):
        if piece.isspace():
            spaced = True
            continue
        for part in [piece] if piece.startswith("`") else _split_wide(piece):
            if last and not spaced and not _may_break(last, part[0]):
                chunks[-1] = Chunk(chunks[-1].spaced, chunks[-1].text + part)
            else:
                chunks.append(Chunk(spaced, part))
            spaced, last = False, part[-1]
    return chunks


def _split_wide(text: str) -> list[str]:
    """Wide characters one by one, and the runs between them."""
    parts: list[str] = []
    for character in text:
        if parts and not _is_wide(character) and not _is_wide(parts[-1][-1]):
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def _may_break(before: str, after: str) -> bool:
    """Tells if a line may end between two characters that no space parts."""
    return (_is_wide(before) or _is_wide(after)) and before not in NOT_LAST and after not in NOT_FIRST


def _is_wide(character: str) -> bool:
    """Tells if a character takes two columns."""
    return unicodedata.east_asian_width(character) in "WF"
