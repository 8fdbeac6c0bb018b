"""`tokenizer.merge`: the fast merging of words, against the plain `bpe.apply_merges`."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.tokenizer import bpe
from data_pipes.tokenizer.merge import NOTHING, index_merges, merge_word, merge_words

LETTERS = "abc"


@st.composite
def tokenizers(draw: st.DrawFn) -> tuple[list[str], list[bpe.Pair]]:
    """A vocabulary and merges in any order, trained or not; two merges may spell the same token."""
    vocab, merges = list(LETTERS), []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.sampled_from(vocab)), draw(st.sampled_from(vocab))
        merges.append(pair)
        if pair[0] + pair[1] not in vocab:
            vocab.append(pair[0] + pair[1])
    return vocab, draw(st.permutations(merges))


def reference_ids(word: str, vocab: list[str], merges: list[bpe.Pair]) -> list[int]:
    return [vocab.index(token) for token in bpe.apply_merges(word, bpe.rank_merges(merges))]


@given(
    tokenizer=tokenizers(), words=st.lists(st.text(LETTERS, min_size=1, max_size=20), min_size=1, max_size=12)
)
def test_merge_word_and_merge_words_equal_plain_bpe(tokenizer: tuple, words: list[str]) -> None:
    vocab, merges = tokenizer
    table = index_merges(
        [(vocab.index(a), vocab.index(b)) for a, b in merges], [vocab.index(a + b) for a, b in merges]
    )
    expected = [reference_ids(word, vocab, merges) for word in words]
    rows = np.full((len(words), 20), NOTHING)
    for row, word in zip(rows, words, strict=True):
        row[: len(word)] = [vocab.index(letter) for letter in word]
    before = rows.copy()
    assert [merge_word([vocab.index(letter) for letter in word], table) for word in words] == expected
    found = {}
    for places, group in merge_words(rows, table):
        for place, tokens in zip(places, group, strict=True):
            found[int(place)] = tokens[tokens >= 0].tolist()
    assert found == dict(enumerate(expected))
    assert (rows == before).all()


def test_no_merges_and_no_words_change_nothing() -> None:
    no_merges = index_merges([], [])
    assert merge_word([1, 2, 3], no_merges) == [1, 2, 3]
    assert merge_word([], no_merges) == []
    ((places, tokens),) = merge_words(np.array([[1, 2]]), no_merges)
    assert (places.tolist(), tokens.tolist()) == ([0], [[1, 2]])
    assert sum(len(places) for places, _ in merge_words(np.empty((0, 3), np.int64), no_merges)) == 0


def test_a_pair_given_twice_has_its_last_rank() -> None:
    pairs, merged = [(0, 1), (1, 2), (0, 1)], [3, 4, 3]
    assert merge_word([0, 1, 2], index_merges(pairs, merged)) == [0, 4]


def test_a_long_word_is_merged_quickly() -> None:
    doubling = index_merges([(i, i) for i in range(17)], list(range(1, 18)))
    assert merge_word([0] * (1 << 17), doubling) == [17]


def test_a_merge_is_linked_to_the_last_symbol_and_followed_by_the_next_merge() -> None:
    merges = index_merges([(0, 1), (3, 2)], [3, 4])
    assert merge_word([0, 1, 2], merges) == [4]
    assert merge_word([0, 1, 0, 1, 2], merges) == [3, 4]
