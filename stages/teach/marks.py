"""Numbered steps of a function: which lines belong to the comment `# 1. ...` of each.

A line belongs to the last mark before it in the same function; in a nested function that has no mark before
it, to the mark that the nested function itself belongs to.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Sequence
from typing import NamedTuple

from stages.teach.source import find_marks
from stages.teach.syntax import Function, find_function, is_text, parse_source, split_lines

NUMBERS = re.compile(r"#\s*((?:\d+\.(?:,? and |, )?)+)")
"""Numbers of a mark: `# 3. ...`, `# 3. and 4. ...`."""


class Mark(NamedTuple):
    """A comment that marks one or several steps.

    Fields:
        numbers: of the steps.
        comment: its text, with the lines that continue it.
        lines: the lines of the file that belong to it, from 1; the first is its own.
    """

    numbers: tuple[int, ...]
    comment: str
    lines: tuple[int, ...]


def list_marks(text: str, function: str) -> list[Mark]:
    """Lists the marks of a function in the order of their lines.

    Args:
        text: source of a module that parses.
        function: its name, at the top of the module; a text without it has no marks.

    Example:
        >>> text = "def f(x):\\n    # 1. Double.\\n    y = x + x\\n    # 2. Return.\\n    return y\\n"
        >>> [(mark.numbers, mark.lines) for mark in list_marks(text, "f")]
        [((1,), (2, 3)), ((2,), (4, 5))]
    """
    node = find_function(parse_source(text), function)
    if node is None:
        return []
    start, end = _find_body(node), _find_end(node, split_lines(text))
    comments = {line: comment for line, comment in find_marks(text).items() if start <= line <= end}
    owners = _find_owners(node, end, comments)
    return [
        Mark(
            _read_numbers(comment[0]),
            "\n".join(comment),
            tuple(each for each in owners if owners[each] == line),
        )
        for line, comment in comments.items()
    ]


def list_numbers(marks: list[Mark]) -> list[int]:
    """Lists the numbers of the steps in ascending order, each once."""
    return sorted({number for mark in marks for number in mark.numbers})


def find_written(text: str, function: str, marks: list[Mark]) -> set[int]:
    """Finds the steps that have code.

    A docstring, `pass`, `...` and `raise Unsolved` are no code.

    Args:
        text: source of a module that parses.
        function: its name.
        marks: of the function, by `list_marks`.

    Example:
        >>> text = "def f(x):\\n    # 1. Add.\\n    y = x + x\\n    # 2. End.\\n    raise Unsolved('f')\\n"
        >>> find_written(text, "f", list_marks(text, "f"))
        {1}
    """
    node = find_function(parse_source(text), function)
    if node is None:
        return set()
    inner = (each for each in ast.walk(node) if isinstance(each, ast.stmt) and each is not node)
    starts = {each.lineno for each in inner if not _is_placeholder(each)}
    return {number for mark in marks for number in mark.numbers if starts & set(mark.lines)}


def cut_step(text: str, marks: list[Mark], number: int) -> str:
    """Cuts the lines of a step out of a module's source, its marks included, without common indentation.

    Example:
        >>> text = "def f(x):\\n    # 1. Double.\\n    y = x + x\\n    # 2. Return.\\n    return y\\n"
        >>> print(cut_step(text, list_marks(text, "f"), 2))
        # 2. Return.
        return y
    """
    lines = split_lines(text)
    own = [line for mark in marks if number in mark.numbers for line in mark.lines]
    return textwrap.dedent("".join(lines[line - 1] for line in own)).strip("\r\n")


def _find_body(node: Function) -> int:
    """The first line after the docstring, or after the signature if there is none."""
    first = node.body[0]
    if is_text(first):
        return (first.end_lineno or 0) + 1
    parts = [*ast.walk(node.args), *([node.returns] if node.returns else [])]
    signature = max(getattr(part, "end_lineno", node.lineno) for part in parts)
    return min(signature + 1, first.lineno)


def _find_end(node: Function, lines: Sequence[str]) -> int:
    """The last line of a function at the top of a module, with the indented comments that follow its last
    statement: marks after which nothing is written yet."""
    end = number = node.end_lineno or 0
    while number < len(lines) and (not lines[number].strip() or lines[number].lstrip(" \t").startswith("#")):
        number += 1
        if lines[number - 1].startswith((" ", "\t")) and lines[number - 1].strip():
            end = number
    return end


def _find_owners(function: Function, last: int, marks: Collection[int]) -> dict[int, int]:
    """Line -> line of the mark that it belongs to; lines before the first mark are left out."""
    nested = [node for node in ast.walk(function) if isinstance(node, Function) and node is not function]
    scopes = {
        line: [
            *sorted((node.lineno for node in nested if line in _span(node)), reverse=True),
            function.lineno,
        ]
        for line in range(function.lineno, last + 1)
    }
    owners = {}
    for line, own_scopes in scopes.items():
        for scope in own_scopes:  # the innermost first
            own = [mark for mark in marks if mark <= line and scopes[mark][0] == scope]
            if own:
                owners[line] = max(own)
                break
    return owners


def _span(node: Function) -> range:
    """The lines of a function."""
    return range(node.lineno, (node.end_lineno or 0) + 1)


def _read_numbers(comment: str) -> tuple[int, ...]:
    """The numbers at the start of a mark."""
    match = NUMBERS.match(comment)
    return tuple(int(number) for number in re.findall(r"\d+", match[1])) if match else ()


def _is_placeholder(node: ast.stmt) -> bool:
    """Tells if a statement stands where code is to be written."""
    if isinstance(node, ast.Raise):
        return node.exc is not None and "Unsolved" in ast.unparse(node.exc)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
