"""`stages.teach.steps`: the step of a line."""

from __future__ import annotations

from stages.teach.steps import find_step

TEXT = """\
# 9. not in a function
def f(x):
    \"\"\"Docstring.

    Steps:
        1. One.
    \"\"\"
    y = x
    # 1. One.
    y = y + 1
    if y:
        # 2. and 3. Both.
        return y


def g(x):
    return x
"""


def test_a_line_belongs_to_the_last_mark_before_it_in_its_function() -> None:
    assert [find_step(TEXT, "f", line) for line in (1, 2, 8, 10, 13)] == [0, 0, 0, 1, 2]
    assert find_step(TEXT, "g", 17) == 0
    assert find_step(TEXT, "absent", 3) == 0
