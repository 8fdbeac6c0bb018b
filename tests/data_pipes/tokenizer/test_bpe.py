"""`tokenizer.bpe`: byte-pair encoding in its plain form, learned and applied."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.tokenizer import bpe

PAPER = {"low·": 5, "lower·": 2, "newest·": 6, "widest·": 3}
WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 9), min_size=1, max_size=8)


def test_the_merges_of_sennrichs_example() -> None:
    """Sennrich et al. 2016, section 3.2: est·, lo and low as there.

    Ties go another way: (t ·), (es t·) where the paper merges (es t), (est ·).
    """
    alphabet = sorted(set("".join(PAPER)))
    vocab, merges = bpe.learn_merges(PAPER, alphabet, len(alphabet) + 5)
    assert merges == [("e", "s"), ("t", "·"), ("es", "t·"), ("l", "o"), ("lo", "w")]
    assert vocab == [*alphabet, "es", "t·", "est·", "lo", "low"]


@given(words=WORDS)
def test_the_first_merge_is_the_most_frequent_pair(words: dict[str, int]) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for word, frequency in words.items():
        for pair in pairwise(word):
            counts[pair] += frequency
    _, merges = bpe.learn_merges(words, "abc", 4, min_frequency=1)
    best = max(counts.values(), default=0)
    assert merges == ([min(pair for pair, n in counts.items() if n == best)] if counts else [])


def test_ties_are_broken_by_ids_not_by_spelling() -> None:
    assert bpe.learn_merges({"ab": 1, "cd": 1}, "abcd", 5, min_frequency=1)[1] == [("a", "b")]
    assert bpe.learn_merges({"ab": 1, "cd": 1}, "dcba", 5, min_frequency=1)[1] == [("c", "d")]


def test_training_ends_at_min_frequency_or_a_full_vocabulary() -> None:
    assert bpe.learn_merges({"ab": 2, "cd": 1}, "abcd", 99, min_frequency=2)[1] == [("a", "b")]
    assert bpe.learn_merges({"ab": 2, "cd": 1}, "abcd", 4)[1] == []


@given(words=WORDS)
def test_every_merge_spells_a_new_token(words: dict[str, int]) -> None:
    vocab, merges = bpe.learn_merges(words, "abc", 99, min_frequency=1)
    assert vocab == ["a", "b", "c", *(a + b for a, b in merges)]
    assert len(set(vocab)) == len(vocab)


def test_a_merged_string_of_the_first_vocabulary_keeps_its_id() -> None:
    vocab, merges = bpe.learn_merges({"abc": 2}, ["a", "b", "c", "ab"], 9)
    assert (vocab, merges) == (["a", "b", "c", "ab", "abc"], [("a", "b"), ("ab", "c")])


def test_learning_leaves_the_given_vocabulary_as_it_is() -> None:
    first = ["a", "b"]
    bpe.learn_merges({"ab": 2}, first, 9)
    assert first == ["a", "b"]


def test_forbidden_tokens_are_never_learned() -> None:
    vocab, merges = bpe.learn_merges({"abc": 9}, "abc", 9, forbidden=["ab"])
    assert "ab" not in vocab
    assert merges == [("b", "c"), ("a", "bc")]


@pytest.mark.parametrize(
    ("word", "tokens"), [("", ()), ("a", ("a",)), ("aaaaa", ("aa", "aa", "a")), ("baab", ("b", "aa", "b"))]
)
def test_merges_are_applied_from_left_to_right(word: str, tokens: tuple[str, ...]) -> None:
    assert bpe.apply_merges(word, bpe.rank_merges([("a", "a")])) == tokens


@given(words=WORDS)
def test_a_training_word_is_encoded_as_at_the_end_of_training(words: dict[str, int]) -> None:
    _, merges = bpe.learn_merges(words, "abc", 10, min_frequency=1)
    for word in words:
        symbols = tuple(word)
        for pair in merges:
            symbols = bpe.merge_pair(symbols, pair)
        assert bpe.apply_merges(word, bpe.rank_merges(merges)) == symbols
        assert "".join(symbols) == word
