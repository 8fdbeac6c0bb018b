"""`tokenizer.pieces`: expressions of tokenizer.json are checked and split text as in Hugging Face."""

from __future__ import annotations

import time

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from data_pipes.tokenizer.pieces import (
    BEHAVIORS,
    PUBLISHED,
    check_expression,
    compile_pattern,
    split_at_matches,
)
from data_pipes.tokenizer.split import PATTERNS

SIMPLE = (
    "[0-9][0-9][0-9]",
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"\s+|[^\s]",
    r" ?\p{L}+",
    r"[\r\n]",
    r"\-\.",
    r"a{2,}|b?dc*",
    r"[^\]\-a]+",
)
NOT_SIMPLE = (
    "(a+)+",
    "a+b",
    "^a",
    "a$",
    ".",
    r"\bx",
    "(a)",
    "a*",
    "a|",
    "",
    "a{1,3}+",
    "a??",
    "[[:alpha:]]",
    "[a&&b]",
    r"\w",
    r"\1",
    "(?=a)b",
    "a" * 1001,
)
HUGGING_FACE_NAMES = dict(
    zip(
        BEHAVIORS,
        ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"),
        strict=True,
    )
)


@pytest.mark.parametrize(
    "expression", [*SIMPLE, *PUBLISHED, *(pattern.unicode for pattern in PATTERNS.values())]
)
def test_a_supported_expression_is_accepted(expression: str) -> None:
    check_expression(expression)


@pytest.mark.parametrize("expression", NOT_SIMPLE)
def test_an_unsupported_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"none of the published ones|matches the empty text"):
        check_expression(expression)


@pytest.mark.parametrize("expression", SIMPLE)
def test_a_simple_expression_takes_linear_time(expression: str) -> None:
    for letter in ("a", " ", "1", "b"):
        start = time.perf_counter()
        compile_pattern(("Regex", expression)).findall(letter * 200_000)
        assert time.perf_counter() - start < 5


@given(st.text(alphabet="ab1 é\n-.一́"), st.sampled_from(SIMPLE), st.sampled_from(BEHAVIORS), st.booleans())
def test_pieces_equal_hugging_faces(text: str, expression: str, behavior: str, invert: bool) -> None:
    peer = pre_tokenizers.Split(Regex(expression), HUGGING_FACE_NAMES[behavior], invert)
    found = [
        text[start:end] for start, end in split_at_matches(regex.compile(expression), behavior, invert, text)
    ]
    assert found == [piece for piece, _ in peer.pre_tokenize_str(text) if piece]
