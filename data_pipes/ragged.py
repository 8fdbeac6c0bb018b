"""Store examples of different lengths in one array, and pad them into the rows of a batch.

Shape letters: B rows in a batch, T tokens in a row, N tokens of all examples, E examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipes.chat.chat import Encoded
from pure.loss.cross_entropy import IGNORE


class Ragged(NamedTuple):
    """Examples of different lengths, concatenated; five bytes per token.

    Fields:
        tokens: [N] int32, token ids of the concatenated examples.
        trained: [N] bool, the loss mask: True for tokens that are trained on.
        starts: [E + 1] int64: example e is tokens starts[e] to starts[e + 1] (exclusive).
    """

    tokens: np.ndarray
    trained: np.ndarray
    starts: np.ndarray


def concatenate(examples: Sequence[Encoded], name: str) -> Ragged:
    """Concatenates examples.

    Args:
        examples: E examples.
        name: name of the calling function, for error messages.

    Returns:
        The examples as a Ragged.

    Raises:
        ValueError: if an example's two arrays differ in length, or a token is not an id.

    Example:
        >>> a = Encoded(np.array([5, 6]), np.array([False, True]))
        >>> b = Encoded(np.array([7]), np.array([True]))
        >>> [array.tolist() for array in concatenate([a, b], "f")]
        [[5, 6, 7], [False, True, True], [0, 2, 3]]
    """
    for number, example in enumerate(examples):
        if len(example.tokens) != len(example.trained):
            raise ValueError(
                f"{name}: tokens and trained of an example must have equal lengths, got "
                f"{len(example.tokens)} and {len(example.trained)} in example {number}; make examples with "
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
    """Pads one example per row: inputs, and as labels the next tokens that are trained on.

    Args:
        examples: the examples, of at most length + 1 tokens each.
        rows: [B] integers, indices of examples; -1 is a row of padding.
        length: T.

    Returns:
        (tokens [B, T] int64, 0 after the example; labels [B, T] int64, -100 where no token is trained on).

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


def shift_example(examples: Ragged, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns one example's inputs, and as labels the next tokens that are trained on.

    A model predicts each token from those before it, so the label of a position is the next token. The loss
    mask stands on the tokens that are predicted, not on the inputs: the last token of a prompt is an input
    whose label, the first token of the answer, is trained on.

        inputs[t] = x[t],     labels[t] = x[t + 1] if trained[t + 1] else -100,     t = 0 ... n-2

    with x and trained those of the example, n its tokens.

    Args:
        examples: all examples.
        number: index of the example.

    Returns:
        (inputs [n-1] int32, labels [n-1] int32, -100 (`IGNORE`) where the next token is not trained on).

    Steps:
        1. The example is tokens starts[number] to starts[number + 1] (exclusive) of all.
        2. Inputs: its tokens without the last.
        3. Labels: its tokens without the first, `IGNORE` where their mask is False.

    Edge cases: an example of one token, or of none, has no positions.

    Example:
        Of the tokens 5, 6, 7 only 7 is trained on; it is predicted from 6.

        >>> one = concatenate([Encoded(np.array([5, 6, 7]), np.array([False, False, True]))], "f")
        >>> [x.tolist() for x in shift_example(one, 0)]
        [[5, 6], [-100, 7]]
    """
    # 1. The range of its n tokens.
    start, end = examples.starts[number : number + 2].tolist()
    # 2. Inputs [n-1].
    inputs = examples.tokens[start : max(end - 1, start)]
    # 3. Labels [n-1].
    labels = np.where(examples.trained[start + 1 : end], examples.tokens[start + 1 : end], IGNORE)
    return inputs, labels


def write_example(examples: Ragged, number: int, tokens: np.ndarray, labels: np.ndarray) -> int:
    """Writes one example to the beginning of a row, in place.

    Args:
        examples: all examples.
        number: index of the example.
        tokens: [T] int64, written to.
        labels: [T] int64, written to.

    Returns:
        Number of positions written, one less than the example has tokens.
    """
    inputs, next_tokens = shift_example(examples, number)
    tokens[: len(inputs)] = inputs
    labels[: len(inputs)] = next_tokens
    return len(inputs)
