"""Generated sections of a card between two markers, one in the front matter and one in the text.

Only what is between the markers is rewritten; the begin marker has the digest of it, so that an edit in there
is found, and refused, instead of lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from data_pipes.digest import hash_bytes

FENCE = "---"
"""Line before and after the front matter."""

_BEGIN = re.compile(r"\s*(?:#|<!--) intro2llm card: begin(?: sha256=([0-9a-f]+))?(?: -->)?\s*")
_END = re.compile(r"\s*(?:#|<!--) intro2llm card: end(?: -->)?\s*")


class Marks(NamedTuple):
    """The form of the markers: comments of YAML, or of HTML.

    Fields:
        name: of the part of the card, for messages.
        before, after: of a marker's text.
    """

    name: str
    before: str
    after: str


YAML, MARKDOWN = Marks("front matter", "# ", ""), Marks("text", "<!-- ", " -->")


def merge(old: str | None, front: Mapping[str, Any], body: str, title: str) -> str:
    """Make a card, or replace the generated sections of one.

    Args:
        old: the card so far; None makes a new one.
        front: generated fields of the front matter: texts, and lists of texts. A field that the user wrote
            outside the section stays, and the generated one is left out.
        body: generated Markdown.
        title: heading of a new card.

    Returns:
        The card; the lines outside the sections are as they were. All ends of lines are those of its first
        lines, and a byte order mark is left out.

    Raises:
        ValueError: if the card has no section for the text, one was edited, or the front matter is not YAML;
            the message ends with the fix.

    Example:
        >>> card = merge(None, {"library_name": "transformers"}, "Facts.", "My model")
        >>> edited = card.replace("# My model", "# My model, which is mine")
        >>> print(merge(edited, {"tags": ["sft"]}, "New facts.", "unused"))
        ---
        # intro2llm card: begin sha256=5554aa306b4baf03
        tags:
        - "sft"
        # intro2llm card: end
        ---
        <BLANKLINE>
        # My model, which is mine
        <BLANKLINE>
        <!-- intro2llm card: begin sha256=bdc426dd2c19ac5f -->
        New facts.
        <!-- intro2llm card: end -->
        <BLANKLINE>
    """
    if old is None or not old.strip():
        empty = [_mark(MARKDOWN, "begin"), _mark(MARKDOWN, "end")]
        old = "\n".join(["", f"# {title}", "", *empty, ""])
    lines = old.removeprefix("\ufeff").split("\n")
    end_of_line = "\r\n" if lines[0].endswith("\r") or (len(lines) > 1 and lines[1].endswith("\r")) else "\n"
    header, text = _split([line.removesuffix("\r") for line in lines])
    replaced = _replace(text, body.split("\n"), MARKDOWN)
    if replaced is None:
        raise ValueError(
            "it has no generated section; put the lines "
            f"{_mark(MARKDOWN, 'begin')} and {_mark(MARKDOWN, 'end')} where it should be"
        )
    return end_of_line.join([FENCE, *_merge_front(header, front), FENCE, *replaced])


def read_front(text: str) -> dict[str, Any]:
    """Read the fields of a card's front matter; {} without one.

    Raises:
        ValueError: if it is not YAML, or not closed.

    Example:
        >>> read_front("---\\nlicense: mit\\n---\\n# Title")
        {'license': 'mit'}
    """
    lines = text.removeprefix("\ufeff").splitlines()
    return _parse(_split(lines)[0])


def _mark(marks: Marks, word: str, digest: str = "") -> str:
    """A marker."""
    return f"{marks.before}intro2llm card: {word}{f' sha256={digest}' if digest else ''}{marks.after}"


def _digest(lines: Sequence[str]) -> str:
    """Sixteen digits of the sha256 of lines, whatever spaces end them."""
    return hash_bytes("\n".join(line.rstrip() for line in lines).strip("\n").encode())[:16]


def _split(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines of the front matter and those of the text."""
    if lines[0].rstrip() != FENCE:
        return [], list(lines)
    for place, line in enumerate(lines[1:], 1):
        if line.rstrip() == FENCE:
            return list(lines[1:place]), list(lines[place + 1 :])
    raise ValueError(f"its front matter has no end; put a line {FENCE} after its last field")


def _replace(lines: Sequence[str], content: Sequence[str], marks: Marks) -> list[str] | None:
    """The lines with the section replaced; None if there are no markers."""
    begins = [place for place, line in enumerate(lines) if _BEGIN.fullmatch(line)]
    ends = [place for place, line in enumerate(lines) if _END.fullmatch(line)]
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise ValueError(
            f"its {marks.name} has {len(begins)} begin and {len(ends)} end markers of the generated section, "
            "expected one of each, in that order; remove the others"
        )
    (begin,), (end,) = begins, ends
    inside, match = lines[begin + 1 : end], _BEGIN.fullmatch(lines[begin])
    recorded = match[1] if match else None
    if _digest(inside) != (recorded or _digest([])):
        raise ValueError(
            f"the generated section of its {marks.name} was edited; move your words out of it, and delete "
            "what is between the markers and the sha256 in the first"
        )
    new = [_mark(marks, "begin", _digest(content)), *content, _mark(marks, "end")]
    return [*lines[:begin], *new, *lines[end + 1 :]]


def _merge_front(header: Sequence[str], front: Mapping[str, Any]) -> list[str]:
    """The front matter with the generated fields that the user did not write."""
    markers = [_mark(YAML, "begin"), _mark(YAML, "end")]
    if _replace(header, [], YAML) is None:  # a new card, or the hub's editor removed the comments
        header = [*header, *markers]
    begin, end = (
        next(place for place, line in enumerate(header) if pattern.fullmatch(line))
        for pattern in (_BEGIN, _END)
    )
    written = _parse([*header[:begin], *header[end + 1 :]])
    content: list[str] = []
    for name, value in front.items():
        if name not in written:
            content += _render_field(name, value)
    return _replace(header, content, YAML) or []


def _render_field(name: str, value: str | Sequence[str]) -> list[str]:
    """A field as YAML; texts in quotes, so that no text is taken for a number or a truth value."""
    if isinstance(value, str):
        return [f"{name}: {json.dumps(value, ensure_ascii=False)}"]
    return [f"{name}:", *(f"- {json.dumps(item, ensure_ascii=False)}" for item in value)] if value else []


def _parse(header: Sequence[str]) -> dict[str, Any]:
    """The fields of YAML's lines."""
    try:
        fields = yaml.safe_load("\n".join(header))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"its front matter is not YAML ({' '.join(str(error).split())[:200]}); fix it"
        ) from None
    if not isinstance(fields, dict | None):
        raise ValueError(
            f"its front matter is a {type(fields).__name__}, expected fields `name: value`; fix it"
        )
    return fields or {}
