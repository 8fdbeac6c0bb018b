"""A table of rows as a pipe: what the pipes after pretraining have in common.

Fine-tuning, preferences and prompts differ in what a row is. How rows are shuffled, put into batches, cut
into slices and found again after a stop is the same: batch i is a function of (table, key, i).

Shape letters: B rows in a batch, R rows of the table, T places in a row, N tokens of all examples, E
examples.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from data_pipes.chat.chat import Encoded
from data_pipes.digest import hash_blocks
from data_pipes.pretrain import IGNORE
from data_pipes.shuffle import fold_in, key_words, named, shuffled


class Ragged(NamedTuple):
    """Examples of different lengths in three arrays, five bytes a token.

    Fields:
        tokens: [N] int32, one example behind the other.
        trained: [N] bool, which of them are learned.
        starts: [E + 1] int64: example e is tokens starts[e] to starts[e + 1].
    """

    tokens: np.ndarray
    trained: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class TablePipe:
    """Batches of a table; a list to all who use it (index, slice, len, iterate).

    Args:
        table: arrays, NamedTuples or tuples of arrays; read-only.
        take: (table, rows [B] int64, -1 for padding) -> {name: [B, ...] array of its own}.
        rows: R.
        batch_size: B.
        epochs: times that the table is seen.
        key: two words; None reads the rows in order.
        wrap: fill the last batch with the beginning of a further epoch, instead of padding.
        about: what else decides the batches, in plain JSON.
        truncated: examples that were shortened.
        dropped: examples that were left out, as nothing in them is learned.
        window: which batches of the whole run this pipe shows; slicing narrows it.
    """

    table: Any
    take: Callable[[Any, np.ndarray], dict[str, np.ndarray]]
    rows: int
    batch_size: int
    epochs: int
    key: tuple[int, int] | None
    wrap: bool
    about: Mapping[str, Any]
    truncated: int
    dropped: int
    window: range

    def __len__(self) -> int:
        return len(self.window)

    @overload
    def __getitem__(self, index: slice) -> TablePipe: ...
    @overload
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, window=self.window[index])
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(
                f"pipe[{number}]: this pipe has {len(self)} batches; raise epochs to train for longer"
            )
        return batch_at(self, self.window[number])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (batch_at(self, number) for number in self.window)


def table_pipe(
    table: Any,
    take: Callable[[Any, np.ndarray], dict[str, np.ndarray]],
    *,
    rows: int,
    batch_size: int,
    key: Any,
    epochs: int,
    shuffle: bool,
    about: Mapping[str, Any],
    wrap: bool = False,
    truncated: int = 0,
    dropped: int = 0,
) -> TablePipe:
    """Builds a pipe of a table: rows shuffled anew each epoch, `batch_size` a batch.

    Args:
        table: see TablePipe.
        take: see TablePipe.
        rows: R >= 1.
        batch_size: B >= 1.
        key: a seed or a key [2] uint32; epoch e is shuffled under fold_in(named(key, "shuffle"), e). None
            only with shuffle=False.
        epochs: how often the table is seen.
        shuffle: False keeps the rows in order.
        about: what else decides the batches; "pipe" names the function that messages speak of, "length" is
            checked.
        wrap: see TablePipe.
        truncated: see TablePipe.
        dropped: see TablePipe.

    Returns:
        A TablePipe of ceil(epochs R / B) batches. Epochs follow each other without a gap.

    Raises:
        ValueError: if a size is below 1, or the table is empty.
        TypeError: if the key is missing.

    Example:
        >>> pipe = table_pipe((), lambda table, rows: {"index": rows}, rows=3, batch_size=2, key=None, epochs=1,
        ...                   shuffle=False, about={"pipe": "numbers", "length": 1})
        >>> [batch["index"].tolist() for batch in pipe]
        [[0, 1], [2, -1]]
    """
    name = about["pipe"]
    for what, value in (("batch_size", batch_size), ("length", about["length"]), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name}: {what} must be at least 1, got {value}")
    if rows < 1:
        why = f", as none of the {dropped} given has a token to learn within length {about['length']}" * (
            dropped > 0
        )
        raise ValueError(
            f"{name}: expected at least one example, got none{why}; give more data, or a greater length"
        )
    if key is None and shuffle:
        raise TypeError(
            f"{name}: shuffling needs a key; pass key=0 (any seed), or shuffle=False to read in order"
        )
    return TablePipe(
        table=table,
        take=take,
        rows=rows,
        batch_size=batch_size,
        epochs=epochs,
        key=named(key_words(key), "shuffle") if shuffle else None,
        wrap=wrap,
        about=about,
        truncated=truncated,
        dropped=dropped,
        window=range(-(-epochs * rows // batch_size)),
    )


def batch_at(pipe: TablePipe, number: int) -> dict[str, Tensor]:
    """Computes batch `number` of the whole run.

    Args:
        pipe: its window is not looked at.
        number: in [0, number of batches).

    Returns:
        What the pipe's `take` says, as tensors [B, ...]. All are the caller's own.
    """
    places = np.arange(number * pipe.batch_size, (number + 1) * pipe.batch_size)
    epochs, rows = np.divmod(places, pipe.rows)
    if pipe.key is not None:
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            rows[here] = shuffled(rows[here], pipe.rows, fold_in(pipe.key, epoch))
    if not pipe.wrap:
        rows[epochs >= pipe.epochs] = -1
    return {name: torch.from_numpy(value) for name, value in pipe.take(pipe.table, rows).items()}


def describe(pipe: TablePipe) -> dict[str, Any]:
    """Says in plain JSON what decides the batches, for a run's manifest: pipes that agree here give equal
    batches.

    Args:
        pipe: its window is not looked at.

    Returns:
        {"pipe", "length", ..., "data" (sha256 over the table), "batch_size", "epochs", "key"}.
    """
    return {
        **pipe.about,
        "data": _digest(pipe.table),
        "batch_size": pipe.batch_size,
        "epochs": pipe.epochs,
        "key": pipe.key,
    }


def ragged(examples: Sequence[Encoded], name: str) -> Ragged:
    """Puts examples one behind the other.

    Args:
        examples: E of them.
        name: of the function that messages speak of.

    Returns:
        Ragged.

    Raises:
        ValueError: if an example's two arrays differ in length, or a token is no id.

    Example:
        >>> ragged([Encoded(np.array([5, 6]), np.array([False, True])), Encoded(np.array([7]), np.array([True]))], "f")
        Ragged(tokens=array([5, 6, 7], dtype=int32), trained=array([False,  True,  True]), starts=array([0, 2,
        3]))
    """
    for number, example in enumerate(examples):
        if len(example.tokens) != len(example.trained):
            raise ValueError(
                f"{name}: tokens and trained of an example must be of one length, got {len(example.tokens)} and "
                f"{len(example.trained)} in example {number}; use those of data_pipes.chat.chat.encode_chat"
            )
    tokens = np.concatenate(
        [np.zeros(0, np.int32), *(x.tokens for x in examples)], dtype=np.int32, casting="same_kind"
    )
    if tokens.size and tokens.min() < 0:
        raise ValueError(f"{name}: tokens must be ids in [0, 2**31), got {tokens.min()}")
    trained = np.concatenate(
        [np.zeros(0, bool), *(x.trained for x in examples)], dtype=bool, casting="unsafe"
    )
    sizes = np.fromiter((len(x.tokens) for x in examples), np.int64, len(examples))
    return Ragged(tokens, trained, np.concatenate([[0], sizes.cumsum()]))


def padded(examples: Ragged, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays one example into each row: inputs, and the token that follows each of them where it is learned.

    Args:
        examples: of at most length + 1 tokens each.
        rows: [B] integers, numbers of examples; -1 is a row of padding.
        length: T.

    Returns:
        (tokens [B, T] int64, 0 behind the example; labels [B, T] int64, -100 where nothing is learned).

    Example:
        >>> one = ragged([Encoded(np.array([5, 6, 7]), np.array([False, False, True]))], "f")
        >>> [x.tolist() for x in padded(one, np.array([0, -1]), 3)]
        [[[5, 6, 0], [0, 0, 0]], [[-100, 7, -100], [-100, -100, -100]]]
    """
    tokens = np.zeros((len(rows), length), np.int64)
    labels = np.full((len(rows), length), IGNORE, np.int64)
    for out, row in enumerate(rows.tolist()):
        if row >= 0:
            put(examples, row, tokens[out], labels[out])
    return tokens, labels


def put(examples: Ragged, example: int, tokens: np.ndarray, labels: np.ndarray) -> int:
    """Writes one example to the beginning of a row.

    Args:
        examples: all.
        example: which.
        tokens: [T] int64, written to.
        labels: [T] int64, written to.

    Returns:
        How many places it takes: one less than it has tokens.
    """
    start, end = examples.starts[example : example + 2].tolist()
    places = max(end - start - 1, 0)
    tokens[:places] = examples.tokens[start : end - 1]
    labels[:places] = np.where(examples.trained[start + 1 : end], examples.tokens[start + 1 : end], IGNORE)
    return places


def _digest(table: Any) -> str:
    """sha256 over all arrays of a table, their dtypes and their shapes."""
    return hash_blocks(_blocks(table))


def _blocks(part: Any) -> Iterator[bytes | memoryview]:
    """The bytes of an array, or of every part of a tuple, each after a line that describes it."""
    if isinstance(part, tuple):
        yield f"({len(part)}".encode()
        for inner in part:
            yield from _blocks(inner)
    elif part is not None:
        yield f"{part.dtype.str}{part.shape}".encode()
        yield np.ascontiguousarray(part).data
