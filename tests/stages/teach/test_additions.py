"""Additions and changes in a learner's file, besides the exercises."""

from __future__ import annotations

import ast

import pytest

from stages.teach.additions import compare_definitions, drop_docstrings, find_additions
from stages.teach.syntax import parse_source

TEXT = (
    '"""Doc."""\nfrom __future__ import annotations\nimport torch\nfrom m import a, b\nLIMIT = 3\n'
    '"""The limit."""\ndef solve(x):\n "Solves."\n return _help(x)\ndef _help(x):\n "Helps."\n return x\n'
)
OURS = parse_source(TEXT)
"""Statements: 0 docstring, 1 future, 2 torch, 3 m, 4 LIMIT, 5 its text, 6 solve, 7 _help."""


def places(answer: str) -> list[tuple[str, int]]:
    """Return the additions of a learner's file as (text, place)."""
    found = find_additions(OURS, parse_source(answer), ["solve"])
    return [(ast.unparse(addition.statement), addition.place) for addition in found]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("import math\ndef solve(x): 1", [("import math", 2)]),
        ("from m import a, c, b as d\ndef solve(x): 1", [("from m import c, b as d", 2)]),
        ("LIMIT = 3\nMORE = LIMIT\ndef solve(x): 1", [("MORE = LIMIT", 6)]),
        ("def solve(x): 1\ndef _help(x): 1\nLATE = _help", [("LATE = _help", 8)]),
        ("def _help(x): 1\nEARLY = 2\ndef solve(x): 1", [("EARLY = 2", 6)]),
        ("T = {}\nT[0] = 1\nT.add(2)\ndef solve(x): 1", [("T = {}", 2), ("T[0] = 1", 2), ("T.add(2)", 2)]),
        ("print(1)\nLIMIT = 4\nLIMIT, X = 1, 2\ntorch.x = 1\nfrom q import *\ndef solve(x): 1", []),
    ],
)  # fmt: skip
def test_each_addition_has_a_place_where_it_can_be_executed(
    answer: str, expected: list[tuple[str, int]]
) -> None:
    assert places(answer) == expected


def test_without_changes_there_are_no_additions_and_no_differences() -> None:
    assert places(ast.unparse(OURS)) == []
    ours = drop_docstrings(TEXT)
    assert list(compare_definitions(ours, drop_docstrings(TEXT), ["solve"])) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("LIMIT = 4", [("changed", "LIMIT", 1)]),
        ("\ndef _help(x): return 2", [("changed", "_help", 2)]),
        ('def _help(x):\n "Hilft."\n return x', []),
        ("def solve(x): return 7", []),
        ("import math\nT = {}\nT[0] = 1", []),
        ("from m import a", []),
        ("from m import c as a", [("changed", "a", 1)]),
        ("from elsewhere import *", [("ignored", "from elsewhere import *", 1)]),
        ("torch.set_default_dtype(torch.float64)", [("ignored", "torch.set_default_dtype(torch.float64)", 1)]),
        ("print('a')\npass", [("ignored", "print('a')", 1)]),
        ("LIMIT += 1", [("changed", "LIMIT", 1)]),
    ],
)  # fmt: skip
def test_changes_that_count(answer: str, expected: list[tuple[str, str, int]]) -> None:
    assert list(compare_definitions(drop_docstrings(TEXT), drop_docstrings(answer), ["solve"])) == expected
