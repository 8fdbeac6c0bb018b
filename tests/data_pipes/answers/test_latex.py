"""Numbers written in LaTeX are extracted with the value that a reader of the typeset formula sees."""

from __future__ import annotations

import time

import pytest

from data_pipes.answers.latex import extract_boxed, rewrite_numbers
from data_pipes.answers.match import exact_match, extract_number

CASES = (
    (r"$1{,}234$", "1234"), (r"1\,234", "1234"), (r"12\,345\,678 people", "12345678"), (r"\$1,234.50", "1234.50"),
    (r"x = \boxed{42} after 3 steps", "42"), (r"\boxed{\text{42 apples}}", "42"), (r"\boxed{\$1{,}200}", "1200"),
    (r"\frac{1}{2}", "1/2"), (r"\dfrac{3}{4}", "3/4"), (r"-\frac12", "-1/2"), (r"\frac{-3}{4}", "-3/4"),
    (r"1\frac{1}{2}", "3/2"), (r"50\%", "50"), (r"\boxed{-7}", "-7"), (r"\boxed{1} no, \boxed{\frac{7}{8}}", "7/8"),
    ("1\u202f234\u202f567", "1234567"), (r"a \boxed{x} of 3", None), (r"12\text{ km}", "12"), (r"1\, 2", "2"),
    (r"\boxed{3} #### 4", "4"), ("x{2}", "2"), (r"\mathbf{9}", "9"), (r"90^\circ", "90"), (r"\boxed{12", "12"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "number"), CASES)
def test_the_number_is_extracted_from_latex(text: str, number: str | None) -> None:
    assert extract_number(text) == number


def test_only_mode_number_reads_latex() -> None:
    """The modes "strict" and "flexible" are lm-eval's, which does not read LaTeX."""
    assert not exact_match(r"#### 1{,}234", "#### 1234", mode="strict")
    assert not exact_match(r"1\,234", "#### 1234", mode="flexible")
    assert exact_match(r"so \boxed{1{,}234}", "#### 1,234", mode="number")


def test_plain_text_is_left_alone() -> None:
    for text in ("", "1,234 and 5", "a b", "def f(): return {1, 2}"):
        assert rewrite_numbers(text) == text
        assert extract_boxed(text) is None


def test_adjacent_fractions_are_both_rewritten() -> None:
    assert rewrite_numbers(r"\frac12\frac34") == "1/23/4"


def test_the_last_closed_box_is_extracted() -> None:
    assert extract_boxed(r"\boxed{1} \fbox {2} \boxed{3") == "2"
    assert extract_boxed(r"\boxed{a \boxed{b} c}") == "b"
    assert extract_boxed(r"} \boxed{\frac{1}{2}} }") == r"\frac{1}{2}"


def test_unclosed_boxes_take_linear_time() -> None:
    """A model that repeats itself writes such text; quadratic time would be a quarter of an hour."""
    start = time.perf_counter()
    assert extract_boxed(20_000 * r"\boxed{") is None
    assert time.perf_counter() - start < 2
