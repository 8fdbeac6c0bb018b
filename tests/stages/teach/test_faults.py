"""Faults of translations."""

from __future__ import annotations

import pytest

from stages.teach.faults import find_faults


@pytest.mark.parametrize(
    ("text", "translation", "fault"),
    [
        ("Mean of `x`.", "均值。", "code spans"),
        ("beta: above 0.", "beta：大于 0。", "expected to start with 'beta: '"),
        ("ValueError: for a shape.", "值错误：形状。", "expected to start with 'ValueError: '"),
        ("a b\nc d", "甲", "expected 2 lines"),
        ("Mean.", '均值"', "at the end"),
        ("Mean.", ' 均值"""。', "expected no"),
        ("Mean.", " 均值。", "no spaces"),
        ("Mean, sum.", "均值,和。", "punctuation: expected 均值，和。"),
        ("Mean of x.", "x的 均值。", "expected a blank inside 'x的'"),
        ("Mean of `x`.", "均值 `x`的。", "expected a blank inside '`的'"),
    ],
)
def test_a_fault_is_found(text: str, translation: str, fault: str) -> None:
    assert any(fault in each for each in find_faults(text, translation))


def test_fields_of_a_message() -> None:
    assert find_faults("{a} of {b:>2}", "{b:>2} 中的 {a}", is_message=True) == []
    assert find_faults("{a} of {b:>2}", "{b} 中的 {a}", is_message=True)
    assert find_faults("{a}", "{c}", is_message=True)
    assert find_faults("a {1, 2}", "集合 {1，2}") == []


@pytest.mark.parametrize(
    ("text", "translation"),
    [
        ("Plain: y = x.", "普通：y = x。"),
        ("x, y: [B].", "x, y: [B]。"),
        ("Call `f`, then `g`.", "在 `g` 之前调用 `f`。"),
    ],
)
def test_a_right_translation_has_none(text: str, translation: str) -> None:
    assert find_faults(text, translation) == []
