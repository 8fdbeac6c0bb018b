"""Texts in Python source that a learner reads: docstrings, numbered steps and other comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from typing import NamedTuple

from stages.teach.docstring import WORD, Unit, split_docstring, translate_docstring
from stages.teach.source import find_marks
from stages.teach.syntax import Function, is_text, parse_source, split_lines
from stages.teach.wrap import wrap

QUOTES = re.compile(r'(?s)(\s*r?""")(.*)("""\s*)')
"""A docstring in the source: opening quotes, text, closing quotes."""

STEP = re.compile(r"# \d+\. ")
"""Start of a numbered step."""

TOOLS = ("# type:", "# fmt:", "# noqa", "# mypy:", "# pragma:", "# ruff:")
"""Comments that are read by tools."""


MAXIMUM = 10_000
"""Width of a line that is not wrapped, as it ends with a comment after code."""


class Span(NamedTuple):
    """Lines of a source that hold one docstring or comment.

    Fields:
        start, end: first line, from 0, and the line after the last.
        column: of a comment; -1 for a docstring.
        place: name of the function or class that it belongs to, or "".
    """

    start: int
    end: int
    column: int
    place: str


def split_source(text: str) -> list[Unit]:
    """Lists the units of all docstrings and comments of a module, in the order of the lines.

    Example:
        >>> split_source("def f():\\n    # 1. Add.\\n    return 1  # the sum\\n")
        [Unit(text='Add.', place='f'), Unit(text='the sum', place='f')]
    """
    lines = split_lines(text)
    units: list[Unit] = []
    for span in _find_spans(text):
        part = "".join(lines[span.start : span.end])
        if span.column < 0:
            match = QUOTES.fullmatch(part)
            found = split_docstring(match[2]) if match else []
        else:
            found = [Unit(_read_comment(part, span.column), "")]
        units += [Unit(unit.text, f"{span.place} {unit.place}".strip()) for unit in found if unit.text]
    return units


def translate_source(text: str, catalogue: Mapping[str, str], width: int = 110) -> str:
    """Translates the docstrings and comments of a module; code and doctests stay as they are.

    Args:
        text: source of a module; its lines end with "\\n".
        catalogue: unit -> translation.
        width: columns of a line at most.

    Returns:
        A source with the same tree, but for docstrings.
    """
    if not catalogue:
        return text
    lines = split_lines(text)
    for span in reversed(_find_spans(text)):
        part = "".join(lines[span.start : span.end])
        if span.column < 0:
            match = QUOTES.fullmatch(part)
            new = match[1] + translate_docstring(match[2], catalogue, width) + match[3] if match else part
        else:
            new = _translate_comment(part, span.column, catalogue, width)
        lines[span.start : span.end] = [new]
    return "".join(lines)


def _find_spans(text: str) -> list[Span]:
    """The docstrings and comments of a module, in the order of the lines."""
    tree = parse_source(text)
    places = _find_places(tree)
    spans = [
        Span(node.lineno - 1, node.end_lineno or 0, -1, places.get(node.lineno, ""))
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and is_text(node)
    ]
    marks = find_marks(text)
    taken: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type != tokenize.COMMENT or line in taken or token.string.startswith(TOOLS):
            continue
        is_alone = not token.line[: token.start[1]].strip()
        count = len(marks.get(line, [""])) if is_alone else 1
        taken.update(range(line, line + count))
        spans.append(Span(line - 1, line - 1 + count, token.start[1], places.get(line, "")))
    return sorted(spans)


def _find_places(tree: ast.Module) -> dict[int, str]:
    """Line -> name of the function or class that it stands in."""
    return {
        line: node.name
        for node in tree.body
        if isinstance(node, Function | ast.ClassDef)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }


def _cut_comment(part: str, column: int) -> tuple[str, str]:
    """Lead of a comment, with the code before it, and its words in one line."""
    first, *others = part.splitlines()
    mark = STEP.match(first, column)
    lead = mark.group() if mark else "# "
    words = [first[column:].removeprefix(lead), *(line.strip().removeprefix("#") for line in others)]
    return first[:column] + lead, " ".join(" ".join(words).split())


def _read_comment(part: str, column: int) -> str:
    """The unit of a comment; "" if it has no words."""
    text = _cut_comment(part, column)[1]
    return text if WORD.search(re.sub(r"\[[^\]]*\]", "", text)) else ""


def _translate_comment(part: str, column: int, catalogue: Mapping[str, str], width: int) -> str:
    """A comment in the other language."""
    lead, text = _cut_comment(part, column)
    translation = catalogue.get(text, "")
    if not translation:
        return part
    is_alone = not part[:column].strip()
    rest = " " * column + "#" + " " * (len(lead) - column - 1)
    return "\n".join(wrap(translation, width if is_alone else MAXIMUM, lead, rest)) + "\n"
