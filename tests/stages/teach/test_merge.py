"""A learner's work in a new version of a file: kept function by function."""

from __future__ import annotations

import ast

import pytest

from stages.teach.merge import digest_functions, merge_work, reset_function
from stages.teach.source import leave_out

VERSION_1 = '''"""Module."""
from math import pi
LIMIT = 3
"""The limit."""
def solve(x):
    """Solves."""
    return _help(x) + pi
def second(y):
    """Second."""
    return y
def _help(x):
    """Helps."""
    return x
'''
VERSION_2 = '''"""Module, again."""
from math import e, pi
LIMIT = 4
"""The limit."""
def solve(x):
    """Solves, better."""
    return _help(x) + pi
def second(y, *, z=1):
    """Second."""
    return y
def third():
    """Third."""
    return e
def _help(x):
    """Helps."""
    return x + 1
'''
NAMES = {"solve": "solve", "second": "second"}
LEFT_1 = leave_out(VERSION_1, NAMES, "docstring")
LEFT_2 = leave_out(VERSION_2, NAMES | {"third": "third"}, "docstring")
WRITTEN = {name: digest_functions(LEFT_1).get(name, "") for name in ("solve", "second", "third")}
ANSWER = (
    LEFT_1.replace("from math import pi", "from math import pi, sin as sinus\nimport os")
    .replace("LIMIT = 3\n", "LIMIT = 5\n# Mine:\nTWO = 2\n")
    .replace('    raise Unsolved("solve")', "    # my way\n    return  TWO*_mine(x)")
    .replace("def _help", '@staticmethod\n# about it\ndef _mine(x):\n    "Mine."\n    return sinus(x)\n\n\ndef _help')
)  # fmt: skip


def test_work_is_kept_and_all_else_is_new() -> None:
    merged = merge_work(LEFT_2, ANSWER, WRITTEN)
    assert (merged.kept, dict(merged.signatures)) == (("solve",), {})
    expected = (
        LEFT_2.replace("from math import e, pi\n", "from math import e, pi\n")
        .replace("LIMIT = 4\n", "LIMIT = 4\n")
        .replace('    """Solves, better."""\n', '    """Solves."""\n')
        .replace('    raise Unsolved("solve")', "    # my way\n    return  TWO*_mine(x)")
    )
    lines = merged.text.splitlines()
    assert [line for line in expected.splitlines() if line not in lines] == []
    added = [line for line in lines if line and line not in expected.splitlines()]
    mine = ["from math import sin as sinus", "import os", "# Mine:", "TWO = 2"]
    assert added == [
        *mine,
        "@staticmethod",
        "# about it",
        "def _mine(x):",
        '    "Mine."',
        "    return sinus(x)",
    ]
    assert lines[lines.index("TWO = 2") - 2] == '"""The limit."""'
    assert "LIMIT = 5" not in merged.text


def test_an_untouched_answer_becomes_the_new_file() -> None:
    assert merge_work(LEFT_2, LEFT_1, WRITTEN) == (LEFT_2, (), {})


def test_a_helper_that_became_an_exercise_is_left_out() -> None:
    """Our own body in the learner's file is not taken for the learner's work."""
    left = leave_out(VERSION_1, NAMES | {"_help": "help"}, "docstring")
    written = digest_functions(LEFT_1)
    assert merge_work(left, LEFT_1, {name: written[name] for name in ("solve", "_help")}).text == left


def test_a_begun_function_is_kept_although_it_raises_unsolved() -> None:
    answer = LEFT_1.replace(
        '    raise Unsolved("second")', '    if y:\n        return y\n    raise Unsolved("second")'
    )
    merged = merge_work(LEFT_2, answer, WRITTEN)
    assert merged.kept == ("second",)
    assert "    if y:\n        return y\n" in merged.text


def test_another_signature_is_told() -> None:
    answer = LEFT_1.replace('raise Unsolved("second")', "return y")
    assert merge_work(LEFT_2, answer, WRITTEN).signatures == {"second": "def second(y, *, z=1)"}


def test_statements_on_one_line_are_told_apart() -> None:
    answer = LEFT_1.replace("LIMIT = 3\n", "LIMIT = 3; A = 1; B = 2\n")
    text = merge_work(LEFT_2, answer, WRITTEN).text
    assert "A = 1\nB = 2\n" in text
    assert "LIMIT = 3" not in text


def test_a_merged_file_can_be_merged_again() -> None:
    merged = merge_work(LEFT_2, ANSWER, WRITTEN).text
    written = {name: digest_functions(LEFT_2)[name] for name in WRITTEN}
    assert merge_work(LEFT_2, merged, written).text.split() == merged.split()


def test_a_file_that_does_not_parse_is_not_merged() -> None:
    with pytest.raises(SyntaxError):
        merge_work(LEFT_2, "def solve(:", WRITTEN)


def test_reset_replaces_one_function_and_keeps_the_rest() -> None:
    text = reset_function(LEFT_1, ANSWER, "solve")
    assert text == ANSWER.replace("    # my way\n    return  TWO*_mine(x)", '    raise Unsolved("solve")')


@pytest.mark.parametrize(
    "mistake",
    ["    return (x\n", "    if x\n        pass\n", "    x = 'open\n    y = 2\n\n# end\n", "return 1\n  x\n"],
)
def test_reset_works_on_a_function_that_does_not_parse(mistake: str) -> None:
    answer = LEFT_1.replace('    raise Unsolved("solve")\n', mistake)
    with pytest.raises(SyntaxError):
        ast.parse(answer)
    if mistake.startswith(" "):
        kept = "\n# end\n" if "# end" in mistake else ""
        assert reset_function(LEFT_1, answer, "solve").replace(kept, "", 1) == LEFT_1
    else:
        with pytest.raises(SyntaxError):
            reset_function(LEFT_1, answer, "solve")


def test_reset_appends_a_function_that_was_renamed() -> None:
    answer = LEFT_1.replace("def solve", "def my_solve").removesuffix("\n")
    text = reset_function(LEFT_1, answer, "solve")
    assert text.startswith(answer + "\n")
    assert digest_functions(text)["solve"] == digest_functions(LEFT_1)["solve"]


def test_reset_brings_the_import_of_unsolved_back() -> None:
    answer = ANSWER.replace("from stages.teach.unsolved import Unsolved\n", "")
    assert "from stages.teach.unsolved import Unsolved\n" in reset_function(LEFT_1, answer, "solve")


def test_digests_are_those_of_lines() -> None:
    assert digest_functions("def f(:") == {}
    assert list(digest_functions("x = 1\ndef f(): 1\nclass C: pass\n")) == ["f", "C"]
    assert digest_functions("def f(): 1")["f"] != digest_functions("def f(): 2")["f"]
