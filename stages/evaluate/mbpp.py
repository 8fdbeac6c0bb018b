"""MBPP: short tasks in words with three asserts each, judged like HumanEval's.

Austin et al., "Program Synthesis with Large Language Models", 2021.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipes.choices import UnreadableError, each, text_of
from data_pipes.types import OnBad, Row, stop
from stages.evaluate.programs import Problem

STOPS = ("[DONE]",)
"""What ends a program outside a chat, in the form of Austin et al. 2021."""


def problems(rows: Iterable[Row], *, on_bad: OnBad = stop) -> list[Problem]:
    """Reads problems from rows of MBPP's form, the full set's or the sanitized one's.

    Args:
        rows: with the columns `text` or `prompt`, `code` (a right program), `test_list` (asserts),
            `test_setup_code` or `test_imports` by choice, and `task_id`.
        on_bad: gets each row without one of them, or whose asserts call no function of its program.

    Returns:
        Problems, in their order; the question is that of Austin et al. 2021, figure 1, without examples.

    Edge cases: a task whose asserts hand over objects of the program's own classes cannot be judged in two
    jails: its
        status is "refused", and it counts as failed.

    Example:
        >>> row = {"task_id": 2, "text": "Double x.", "code": "def f(x):\\n  return 2 * x"}
        >>> row["test_list"] = ["assert f(1) == 2"]
        >>> found = problems([Row(row, "a:1")])[0]
        >>> found.name, found.entry_point
        ('MBPP/2', 'f')
    """
    return list(each(rows, _problem, on_bad))


def entry_point(program: str, asserts: Sequence[str]) -> str:
    """Finds the function of a program that asserts call; "" if there is none.

    Example:
        >>> entry_point("def g(x): return x\\ndef f(x): return g(x)", ["assert set(f(1)) == set([1])"])
        'f'
    """
    own = {node.name for node in _tree(program).body if isinstance(node, ast.FunctionDef)}
    for line in asserts:
        for node in ast.walk(_tree(line)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in own:
                return node.func.id
    return ""


def _problem(row: Mapping[str, Any], name: str) -> Problem:
    """One row."""
    column = "text" if row.get("text") is not None else "prompt"
    text, program = text_of(row.get(column), column), text_of(row.get("code"), "code")
    asserts = row.get("test_list")
    if (
        not isinstance(asserts, list | tuple)
        or not asserts
        or not all(isinstance(line, str) for line in asserts)
    ):
        raise UnreadableError("expected a list of asserts in test_list")
    called = entry_point(program, asserts)
    if not called:
        raise UnreadableError("the asserts in test_list call no function that the program in code defines")
    imports = row.get("test_imports") or []
    setup = "\n".join([row.get("test_setup_code") or "", *imports]).strip("\n")
    body = "".join(f"    {part}\n" for line in asserts for part in line.strip().splitlines())
    shown = "\n".join(asserts)
    asked = (
        f"You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n"
        f"{shown}\n"
    )
    return Problem(
        f"MBPP/{row.get('task_id', name)}", "", called, f"def check(candidate):\n{body}", asked, setup
    )


def _tree(source: str) -> ast.Module:
    """The tree of a source; an empty one if it does not parse."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])
