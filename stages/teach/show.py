"""A learner's function beside ours, as text in two columns."""

from __future__ import annotations

import ast
import itertools

from stages.teach.syntax import find_function, parse_source, split_lines
from stages.teach.wrap import count_columns


def cut_body(text: str, function: str) -> list[str]:
    """Cuts a function's body without its docstring out of a file's source, without indentation.

    Example:
        >>> cut_body('def f(x):\\n    "Doubles."\\n    return x + x\\n', "f")
        ['return x + x']
    """
    node = find_function(parse_source(text), function)
    if node is None:
        return []
    lines = split_lines(text)
    start = node.body[0].end_lineno if ast.get_docstring(node) is not None else _line_before(node)
    found = [line.rstrip() for line in lines[start : node.end_lineno]]
    indent = min((len(line) - len(line.lstrip()) for line in found if line), default=0)
    return [line[indent:] for line in found]


def put_beside(left: list[str], right: list[str], width: int) -> str:
    """Writes two texts in columns, one above the other if they are too wide.

    Args:
        left, right: lines; the first is the title.
        width: columns of the terminal.

    Example:
        >>> print(put_beside(["yours", "a"], ["ours", "b"], 80))
        yours | ours
        a     | b
    """
    wide = max(map(count_columns, left))
    if wide + 3 + max(map(count_columns, right)) > width:
        return "\n".join([*left, "", *right])
    rows = itertools.zip_longest(left, right, fillvalue="")
    return "\n".join(f"{a}{' ' * (wide - count_columns(a))} | {b}".rstrip() for a, b in rows)


def describe_seconds(seconds: float) -> str:
    """Describes a duration with three digits.

    Example:
        >>> describe_seconds(0.0000123), describe_seconds(1.5)
        ('12.3 µs', '1.5 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _line_before(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The line before the first statement of a function without docstring."""
    return node.body[0].lineno - 1
