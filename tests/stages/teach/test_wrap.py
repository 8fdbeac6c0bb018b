"""Wrapping of mixed text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from stages.teach.wrap import NOT_FIRST, count_columns, split_chunks, wrap

SPACES = re.compile(" +(?=[ ，。）,.]|$)")
TEXTS = st.text(st.sampled_from("ab `，。（）梯度 x,."), max_size=60).map(
    lambda text: SPACES.sub("", text.strip())
)


@given(TEXTS, st.integers(4, 30))
def test_wrapping_keeps_every_character_and_the_width(text: str, width: int) -> None:
    lines = wrap(text, width, "1. ", "   ")
    assert "".join(lines).replace(" ", "") == f"1.{text}".replace(" ", "")
    for line in lines:
        assert count_columns(line) <= width or len(split_chunks(line.strip().removeprefix("1. "))) == 1
    for line in lines[1:]:
        assert line.startswith("   ")
        assert line[3] not in NOT_FIRST or split_chunks(text)[0].text.startswith(line[3])


def test_a_code_span_is_not_broken() -> None:
    assert wrap("see `a b c d e f g`, and so on", 10) == ["see", "`a b c d e f g`,", "and so on"]


def test_a_mark_stays_with_the_character_before_it() -> None:
    assert wrap("梯度，范数。", 4) == ["梯", "度，", "范", "数。"]


def test_columns_of_wide_and_combining_characters() -> None:
    assert count_columns("梯度，x\u0304 σ") == 9
