"""`stages.teach.cheats`: the answers that are none are written as they are meant."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from stages.teach.cheats import find_example_answer, list_arguments, list_cheats, replace_body, write_cheat
from stages.teach.course import find_exercise
from stages.teach.files import find_answer
from stages.teach.source import is_solved
from tests.stages.teach.edition import NORM


@pytest.mark.parametrize("cheat", list_cheats())
def test_each_cheat_is_a_file_that_parses_but_for_one(tmp_path: Path, cheat: str) -> None:
    exercise = find_exercise(NORM)
    if not write_cheat(tmp_path, exercise, cheat):
        assert cheat == "hard-coded"
        return
    text = find_answer(tmp_path, exercise.module).read_text("utf8")
    if cheat == "syntax":
        with pytest.raises(SyntaxError):
            ast.parse(text)
    else:
        assert is_solved(text, exercise.function) == (cheat != "unsolved")


def test_bodies_arguments_and_answers() -> None:
    text = (
        'def f(a, /, b, *c, d=1, **e):\n    """Adds.\n\n    >>> f(1, 2)\n    3\n    """\n    return a + b\n'
    )
    assert list_arguments(text, "f") == "a, b, *c, d=d, **e"
    assert find_example_answer(text, "f") == "3"
    assert replace_body(text, "f", "return 3\n").endswith('"""\n    return 3\n')
