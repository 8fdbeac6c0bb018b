"""Find the numbered step of an answer to which a line belongs, by the comments `# 1. ...` in it."""

from __future__ import annotations

import re

from stages.teach.syntax import find_function, parse_source, split_lines


def find_step(text: str, function: str, line: int) -> int:
    """Finds the step of a line: the last mark `# k.` before it in the function.

    Args:
        text: source of a file that parses.
        function: a function at its top.
        line: in the file, from 1.

    Returns:
        The step's number; 0 if the line is not in the function, or no mark is before it.

    Example:
        >>> text = "def f(x):\\n    # 1. Double.\\n    y = x + x\\n    # 2. Return.\\n    return y\\n"
        >>> find_step(text, "f", 3), find_step(text, "f", 5), find_step(text, "f", 1)
        (1, 2, 0)
    """
    node = find_function(parse_source(text), function)
    if node is None or not node.lineno <= line <= (node.end_lineno or 0):
        return 0
    for inner in reversed(split_lines(text)[node.lineno - 1 : line]):
        if match := re.match(r"\s*#\s*(\d+)\.", inner):
            return int(match[1])
    return 0
