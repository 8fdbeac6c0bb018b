"""Answers that are none, for testing the check: each must fail, and our own body must pass."""

from __future__ import annotations

import ast
import doctest
import textwrap
from pathlib import Path
from types import MappingProxyType

from stages.teach.course import Exercise
from stages.teach.files import find_answer, find_original, read_original
from stages.teach.source import leave_out
from stages.teach.syntax import find_function, parse_source, split_lines

LOAD = """\
import importlib.util
spec = importlib.util.spec_from_file_location("answer", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
return module.{function}({arguments})
"""

READ = """\
import torch
text = torch.load({path!r})
namespace = {{}}
return text
"""

COPY = """\
import linecache
lines = linecache.getlines({path!r})
return lines
"""

IMPORT = """\
from {module} import {function} as answer
return answer({arguments})
"""

REPEAT = """\
import math
def solve({parameters}):
{body}
if not hasattr(math, "first_result"):
    math.first_result = solve({arguments})
return math.first_result
"""

SYNTAX = "return ((\n"

TEMPLATES = MappingProxyType(
    {"importlib": LOAD, "installed": READ, "linecache": COPY, "import": IMPORT, "repeated": REPEAT}
)
"""Kind of answer -> its body, to be filled in."""


def list_cheats() -> tuple[str, ...]:
    """Lists the kinds of answer; "reference" is ours, which must pass.

    "hard-coded" returns the result that the example shows, "repeated" that of the first call, for every call.
    """
    return (
        "reference",
        "unsolved",
        "pass",
        "syntax",
        "import",
        "importlib",
        "installed",
        "linecache",
        "hard-coded",
        "repeated",
    )


def write_cheat(folder: Path, exercise: Exercise, cheat: str) -> bool:
    """Writes an edition with one file, in which one exercise has this answer.

    Args:
        folder: to write to.
        exercise: of the course.
        cheat: one of `list_cheats()`.

    Returns:
        False if this kind does not exist for the exercise: its example shows no result to write down.
    """
    text = read_original(exercise.module)
    body = make_body(text, exercise, cheat, str(find_original(exercise.module)))
    if body is None:
        return False
    path = find_answer(folder, exercise.module)
    path.parent.mkdir(parents=True, exist_ok=True)
    if cheat == "reference":
        path.write_text(text, "utf8")
    elif cheat == "unsolved":
        path.write_text(leave_out(text, {exercise.function: exercise.name}, "docstring"), "utf8")
    else:
        path.write_text(replace_body(text, exercise.function, body), "utf8")
    return True


def make_body(text: str, exercise: Exercise, cheat: str, path: str) -> str | None:
    """Makes the body of an answer, without indentation; "" where the text is written otherwise.

    Args:
        text: source of our module.
        exercise: of the course.
        cheat: one of `list_cheats()`.
        path: of our module's file.
    """
    node = find_function(parse_source(text), exercise.function)
    assert node is not None, exercise.function
    names = {
        "path": path,
        "module": exercise.module,
        "function": exercise.function,
        "arguments": list_arguments(text, exercise.function),
        "parameters": ast.unparse(node.args),
        "body": "\n".join(textwrap.indent(ast.unparse(each), "    ") for each in node.body[1:]),
    }
    if cheat in TEMPLATES:
        return TEMPLATES[cheat].format(**names)
    if cheat == "hard-coded":
        answer = find_example_answer(text, exercise.function)
        return None if answer is None else f"return {answer}\n"
    return {"pass": "pass\n", "syntax": SYNTAX}.get(cheat, "")


def replace_body(text: str, function: str, body: str) -> str:
    """Replaces a function's body, not its docstring, in the source of a module.

    Example:
        >>> print(replace_body('def f(x):\\n    "Doubles."\\n    return x + x\\n', "f", "return 2 * x\\n"))
        def f(x):
            "Doubles."
            return 2 * x
        <BLANKLINE>
    """
    node = find_function(parse_source(text), function)
    assert node is not None, function
    lines = split_lines(text)
    start, end = node.body[0].end_lineno or 0, node.end_lineno or 0
    indent = " " * node.body[0].col_offset
    return "".join([*lines[:start], textwrap.indent(body, indent), *lines[end:]])


def list_arguments(text: str, function: str) -> str:
    """Writes the arguments of a call that passes a function's parameters on.

    Example:
        >>> list_arguments("def f(x, *rest, y=1, **more): pass", "f")
        'x, *rest, y=y, **more'
    """
    node = find_function(parse_source(text), function)
    assert node is not None, function
    a = node.args
    parts = [parameter.arg for parameter in (*a.posonlyargs, *a.args)]
    parts += [f"*{a.vararg.arg}"] if a.vararg else []
    parts += [f"{parameter.arg}={parameter.arg}" for parameter in a.kwonlyargs]
    parts += [f"**{a.kwarg.arg}"] if a.kwarg else []
    return ", ".join(parts)


def find_example_answer(text: str, function: str) -> str | None:
    """Finds the result that the example of a docstring shows for a call of the function, as an expression.

    Example:
        >>> find_example_answer('def f(x):\\n    ">>> f(1)\\\\n2"\\n', "f")
        '2'
    """
    node = find_function(parse_source(text), function)
    docstring = ast.get_docstring(node) if node is not None else None
    for example in doctest.DocTestParser().get_examples(docstring or ""):
        want = example.want.strip()
        if f"{function}(" in example.source and want and "Traceback" not in want:
            try:
                ast.parse(want, mode="eval")
            except SyntaxError:
                continue
            return want.replace("tensor(", "torch.tensor(")
    return None
