"""Punctuation of Chinese text."""

from __future__ import annotations

import pytest

from stages.teach.punctuation import widen_punctuation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("均值,方差;熵:损失?是!", "均值，方差；熵：损失？是！"),
        ("见 `中,文`, 再算.", "见 `中,文`，再算。"),
        ("[B, T] float32, 由查询得到", "[B, T] float32，由查询得到"),
        ("x, y: 张量", "x, y: 张量"),
        ("{path}: 已写入", "{path}: 已写入"),
        ("Mean, of x: y.", "Mean, of x: y."),
        ("系数为 0.5, 1.5", "系数为 0.5, 1.5"),
    ],
)
def test_marks_beside_chinese_characters(text: str, expected: str) -> None:
    assert widen_punctuation(text) == expected
    assert widen_punctuation(expected) == expected
