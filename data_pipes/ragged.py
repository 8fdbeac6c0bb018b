"""Examples of different lengths in one array, and rows of a batch padded from them.

Shape letters: B rows in a batch, T places in a row, N tokens of all examples, E examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipes.chat.chat import Encoded
from pure.loss.cross_entropy import IGNORE


class Ragged(NamedTuple):
    """Examples of different lengths in three arrays, five bytes a token.

    Fields:
        tokens: [N] int32, the examples one after the other.
        trained: [N] bool, True for the tokens that are learned.
        starts: [E + 1] int64: example e is tokens starts[e] to starts[e + 1].
    """

    tokens: np.ndarray
    trained: np.ndarray
    starts: np.ndarray


def concatenate(examples: Sequence[Encoded], name: str) -> Ragged:
    """Joins examples, one after the other.

    Args:
        examples: E of them.
        name: the function that error messages name.

    Returns:
        Ragged.

    Raises:
        ValueError: if an example's two arrays differ in length, or a token is no id.

    Example:
        >>> a = Encoded(np.array([5, 6]), np.array([False, True]))
        >>> b = Encoded(np.array([7]), np.array([True]))
        >>> [array.tolist() for array in concatenate([a, b], "f")]
        [[5, 6, 7], [False, True, True], [0, 2, 3]]
    """
    for number, example in enumerate(examples):
        if len(example.tokens) != len(example.trained):
            raise ValueError(
                f"{name}: tokens and trained of an example must be of one length, got {len(example.tokens)} "
                f"and {len(example.trained)} in example {number}; use those of "
                "data_pipes.chat.chat.encode_chats"
            )
    token_arrays = [np.zeros(0, np.int32), *(example.tokens for example in examples)]
    trained_arrays = [np.zeros(0, bool), *(example.trained for example in examples)]
    tokens = np.concatenate(token_arrays, dtype=np.int32, casting="same_kind")
    if tokens.size and tokens.min() < 0:
        raise ValueError(f"{name}: tokens must be ids in [0, 2**31), got {tokens.min()}")
    trained = np.concatenate(trained_arrays, dtype=bool, casting="unsafe")
    sizes = np.fromiter((len(example.tokens) for example in examples), np.int64, len(examples))
    return Ragged(tokens, trained, np.concatenate([[0], sizes.cumsum()]))


def pad_rows(examples: Ragged, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays one example into each row: inputs, and the token that follows each of them where it is learned.

    Args:
        examples: of at most length + 1 tokens each.
        rows: [B] integers, numbers of examples; -1 is a row of padding.
        length: T.

    Returns:
        (tokens [B, T] int64, 0 after the example; labels [B, T] int64, -100 where nothing is learned).

    Example:
        >>> one = concatenate([Encoded(np.array([5, 6, 7]), np.array([False, False, True]))], "f")
        >>> [x.tolist() for x in pad_rows(one, np.array([0, -1]), 3)]
        [[[5, 6, 0], [0, 0, 0]], [[-100, 7, -100], [-100, -100, -100]]]
    """
    tokens = np.zeros((len(rows), length), np.int64)
    labels = np.full((len(rows), length), IGNORE, np.int64)
    for batch_position, row in enumerate(rows.tolist()):
        if row >= 0:
            write_example(examples, row, tokens[batch_position], labels[batch_position])
    return tokens, labels


def write_example(examples: Ragged, number: int, tokens: np.ndarray, labels: np.ndarray) -> int:
    """Writes one example to the beginning of a row.

    Args:
        examples: all examples.
        number: of the example.
        tokens: [T] int64, written to.
        labels: [T] int64, written to.

    Returns:
        The places that it takes, one less than it has tokens.
    """
    start, end = examples.starts[number : number + 2].tolist()
    places = max(end - start - 1, 0)
    tokens[:places] = examples.tokens[start : end - 1]
    labels[:places] = np.where(examples.trained[start + 1 : end], examples.tokens[start + 1 : end], IGNORE)
    return places
