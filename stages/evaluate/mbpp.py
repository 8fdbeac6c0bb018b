"""MBPP: short programming problems with three asserts each, tested like HumanEval's.

Austin et al., "Program Synthesis with Large Language Models", 2021.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipes.choices import UnreadableError, parse_rows, require_text
from data_pipes.types import OnBad, Row, stop
from stages.evaluate.programs import Problem

STOPS = ("[DONE]",)
"""Text that ends a program outside a chat, in the format of Austin et al. 2021."""


def read_problems(rows: Iterable[Row], *, on_bad: OnBad = stop) -> list[Problem]:
    """Read problems from rows of MBPP, of the full or the sanitized set.

    Args:
        rows: rows with the columns `text` or `prompt`, `code` (a correct program), `test_list` (asserts),
            optionally `test_setup_code` or `test_imports`, and `task_id`.
        on_bad: called with each row that lacks a column, or whose asserts call no function of its program.

    Returns:
        Problems, in their order; the question is that of Austin et al. 2021, figure 1, without examples.

    Edge cases: a problem whose asserts pass objects of the program's own classes cannot be tested, as
        program and asserts run in separate jails: its status is "refused", and it counts as failed.

    Example:
        >>> row = {"task_id": 2, "text": "Double x.", "code": "def f(x):\\n  return 2 * x"}
        >>> row["test_list"] = ["assert f(1) == 2"]
        >>> problem = read_problems([Row(row, "a:1")])[0]
        >>> problem.name, problem.entry_point
        ('MBPP/2', 'f')
    """
    return list(parse_rows(rows, _read_problem, on_bad))


def entry_point(program: str, asserts: Sequence[str]) -> str:
    """Return the name of the first function of the program that the asserts call; "" if there is none.

    Example:
        >>> entry_point("def g(x): return x\\ndef f(x): return g(x)", ["assert set(f(1)) == set([1])"])
        'f'
    """
    defined = {node.name for node in _parse_source(program).body if isinstance(node, ast.FunctionDef)}
    for line in asserts:
        for node in ast.walk(_parse_source(line)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
    return ""


def _read_problem(row: Mapping[str, Any], name: str) -> Problem:
    """Read one row."""
    column = "text" if row.get("text") is not None else "prompt"
    text, program = require_text(row.get(column), column), require_text(row.get("code"), "code")
    asserts = row.get("test_list")
    are_texts = isinstance(asserts, list | tuple) and all(isinstance(line, str) for line in asserts)
    if not asserts or not are_texts:
        raise UnreadableError(f"expected a list of asserts in test_list, got {asserts!r:.60}")
    function = entry_point(program, asserts)
    if not function:
        raise UnreadableError("the asserts in test_list call no function that the program in code defines")
    imports = row.get("test_imports") or []
    setup = "\n".join([row.get("test_setup_code") or "", *imports]).strip("\n")
    body = "".join(f"    {part}\n" for line in asserts for part in line.strip().splitlines())
    tests = "\n".join(asserts)
    question = (
        f"You are an expert Python programmer, and here is your task: {text} "
        f"Your code should pass these tests:\n\n{tests}\n"
    )
    check = f"def check(candidate):\n{body}"
    return Problem(f"MBPP/{row.get('task_id', name)}", "", function, check, question, setup)


def _parse_source(source: str) -> ast.Module:
    """Parse a source; return an empty module if that fails."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])
