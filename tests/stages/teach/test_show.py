"""`stages.teach.show`: two bodies in columns."""

from __future__ import annotations

from stages.teach.show import cut_body, describe_seconds, put_beside

TEXT = 'def f(x):\n    """Doubles."""\n    # 1. Add.\n    if x:\n        return x + x\n\n    return x\n'


def test_a_body_is_cut_without_docstring_and_indentation() -> None:
    assert cut_body(TEXT, "f") == ["# 1. Add.", "if x:", "    return x + x", "", "return x"]
    assert cut_body("def f(x): return x\n", "f") == ["def f(x): return x"]
    assert cut_body(TEXT, "g") == []


def test_columns_that_do_not_fit_stand_one_above_the_other() -> None:
    left, right = ["yours", "aaaa", "b"], ["ours", "c"]
    assert put_beside(left, right, 80).splitlines() == ["yours | ours", "aaaa  | c", "b     |"]
    assert put_beside(["你的", "a"], ["我", "b"], 80).splitlines() == ["你的 | 我", "a    | b"]
    assert put_beside(left, right, 9) == "yours\naaaa\nb\n\nours\nc"


def test_durations_have_three_digits() -> None:
    assert [describe_seconds(x) for x in (2.0, 0.01234, 1e-7)] == ["2 s", "12.3 ms", "0.1 µs"]
