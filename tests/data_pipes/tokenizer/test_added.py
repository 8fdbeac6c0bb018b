"""`tokenizer.added`: added and special tokens are found in a text."""

from __future__ import annotations

import pytest

from data_pipes.tokenizer.added import compile_finder, split_added
from data_pipes.tokenizer.spec import AddedToken, TokenizerSpec
from data_pipes.tokenizer.step import NFC

SPEC = TokenizerSpec(
    kind="byte_level",
    vocab=("a", "e", "\u0301"),
    merges=(),
    pattern="gpt2",
    added_tokens=(
        AddedToken("<|a|>", 3),
        AddedToken("<|a|><|b|>", 4),
        AddedToken("<|b|>", 5),
        AddedToken("  ", 6, special=False),
        AddedToken("é", 7, special=False, normalized=True),
    ),
    normalizer=NFC,
)


def split_text(text: str, special: str | list[str]) -> list[str | int]:
    return list(split_added(compile_finder(SPEC, special), text))


def test_special_tokens_are_text_if_none_are_allowed() -> None:
    assert split_text("x<|a|>y", "none") == ["x<|a|>y"]
    assert split_text("", "all") == []


def test_the_leftmost_longest_special_token_is_found() -> None:
    assert split_text("x<|a|><|b|>y<|b|>", "all") == ["x", 4, "y", 5]
    assert split_text("<|a|><|a|>", "all") == [3, 3]


def test_only_the_listed_special_tokens_are_found() -> None:
    assert split_text("<|a|>.<|b|>", ["<|b|>"]) == ["<|a|>.", 5]
    assert split_text("<|a|>.<|b|>", []) == ["<|a|>.<|b|>"]


def test_added_tokens_that_are_not_special_are_always_found() -> None:
    assert split_text("x  y   z", "none") == ["x", 6, "y", 6, " z"]


def test_normalised_tokens_are_found_after_normalisation() -> None:
    assert split_text("xe\u0301y", "none") == ["x", 7, "y"]
    assert split_text("x\u00e9y", "none") == ["x", 7, "y"]
    assert split_text("o\u0308", "none") == ["ö"]


def test_special_error_refuses_and_names_token_and_place() -> None:
    with pytest.raises(ValueError, match=r"special token '<\|b\|>' at 1; pass special=\"all\""):
        split_text("x<|b|>", "error")
    assert split_text("x", "error") == ["x"]


def test_invalid_values_of_special_are_refused() -> None:
    with pytest.raises(ValueError, match='must be "none", "all", "error" or a list of tokens, got \'some\''):
        compile_finder(SPEC, "some")
    with pytest.raises(ValueError, match='must be "none", "all", "error" or a list of tokens, got None'):
        compile_finder(SPEC, None)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"\['<\|c\|>'\] are not special tokens of this tokenizer; it has <\|a\|>"
    ):
        compile_finder(SPEC, ["<|c|>"])
