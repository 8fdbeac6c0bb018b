"""Lines of numbered steps."""

from __future__ import annotations

import pytest

from stages.teach.marks import cut_step, find_written, list_marks, list_numbers

NESTED = '''def other():
    # 1. Not this one.
    return 0


def f(
    x,
):
    """Doc.

    # 1. is no mark here.
    """
    a = 0
    # 1. Outer,
    # continued.
    b = 1

    def leaf(y):
        c = y
        # 2. and 3. Inner.
        return c

    d = leaf(b)
    # 4. Nothing of its own.
'''


def test_lines_belong_to_the_last_mark_in_the_same_function() -> None:
    marks = list_marks(NESTED, "f")
    assert [(mark.numbers, mark.comment) for mark in marks] == [
        ((1,), "# 1. Outer,\n# continued."),
        ((2, 3), "# 2. and 3. Inner."),
        ((4,), "# 4. Nothing of its own."),
    ]
    assert list_numbers(marks) == [1, 2, 3, 4]
    lines = NESTED.splitlines()
    owned = [[lines[line - 1].strip() for line in mark.lines] for mark in marks]
    assert owned[0][2:] == ["b = 1", "", "def leaf(y):", "c = y", "", "d = leaf(b)"]
    assert owned[1] == ["# 2. and 3. Inner.", "return c"]
    assert cut_step(NESTED, marks, 3) == "# 2. and 3. Inner.\nreturn c"
    assert find_written(NESTED, "f", marks) == {1, 2, 3}


@pytest.mark.parametrize("code", ["raise Unsolved('f')", "raise unsolved.Unsolved", "pass", "...", '"text"'])
def test_placeholders_are_no_code(code: str) -> None:
    text = f"def f(x):\n    # 1. One.\n    y = x\n    # 2. Two.\n    {code}\n"
    assert find_written(text, "f", list_marks(text, "f")) == {1}


def test_an_error_that_is_raised_is_code() -> None:
    text = "def f(x):\n    # 1. One.\n    raise ValueError(x)\n"
    assert find_written(text, "f", list_marks(text, "f")) == {1}


def test_a_text_without_the_function_has_no_marks() -> None:
    assert list_marks(NESTED, "g") == []
    assert find_written(NESTED, "g", []) == set()
