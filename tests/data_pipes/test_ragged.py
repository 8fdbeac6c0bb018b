"""`data_pipes.ragged`: examples of different lengths are joined into one array and padded into rows."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipes.chat.chat import Encoded
from data_pipes.ragged import concatenate, pad_rows, shift_example

EXAMPLES = [
    Encoded(np.array([1, 2, 3]), np.array([False, True, False])),
    Encoded(np.array([4]), np.array([True])),
    Encoded(np.array([5, 6]), np.array([False, True])),
]


def test_examples_are_joined_and_padded_again() -> None:
    joined = concatenate(EXAMPLES, "mine")
    assert joined.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    tokens, labels = pad_rows(joined, np.array([2, 0, -1, 1]), 2)
    assert tokens.tolist() == [[5, 0], [1, 2], [0, 0], [0, 0]]
    assert labels.tolist() == [[6, -100], [2, -100], [-100, -100], [-100, -100]]
    assert concatenate([], "mine").starts.tolist() == [0]


def test_labels_are_the_next_tokens_that_are_trained_on() -> None:
    joined = concatenate(EXAMPLES, "mine")
    shifted = [[x.tolist() for x in shift_example(joined, number)] for number in range(3)]
    assert shifted == [[[1, 2], [2, -100]], [[], []], [[5], [6]]]


def test_an_empty_example_has_no_positions() -> None:
    empty = Encoded(np.zeros(0, np.int64), np.zeros(0, bool))
    joined = concatenate([empty, EXAMPLES[0], empty], "mine")
    for number in (0, 2):
        assert [x.tolist() for x in shift_example(joined, number)] == [[], []]
    assert pad_rows(joined, np.array([0]), 2)[0].tolist() == [[0, 0]]


def test_malformed_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths, got 2 and 1 in example 0"):
        concatenate([Encoded(np.array([1, 2]), np.array([True]))], "mine")
    with pytest.raises(ValueError, match="must be ids"):
        concatenate([Encoded(np.array([-1]), np.array([True]))], "mine")
