"""A table of rows as a sequence of batches, each a pure function of its index.

All pipes are table pipes: pretraining, fine-tuning, preferences and prompts differ only in the contents of a
row, and share shuffling, batching, slicing and epochs. A pipe has no state: batch i is computed from (table,
key, i). So a run resumes exactly where it stopped with `pipe[int(state.step):]`, on any machine, with any
number of loader processes.

Shape letters: B rows in a batch, R rows of the table.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from data_pipes.digest import hash_blocks
from data_pipes.shuffle import fold_in, fold_in_name, key_words, permute
from data_pipes.tokens import TokenStore
from pure.plural import count_noun


@dataclass(frozen=True, eq=False, kw_only=True)
class TablePipe:
    """Batches of a table, used like a list (index, slice, len, iterate).

    Args:
        table: a token store, or arrays, NamedTuples or tuples of arrays; read-only.
        take: (table, rows [B] int64, -1 for padding) -> {name: [B, ...] new array}.
        rows: R.
        batch_size: B.
        epochs: passes through the table.
        key: two uint32 words; None reads the rows in order.
        wrap: fill the last batch with the beginning of a further epoch, instead of padding.
        about: other settings that determine the batches, as JSON values; "pipe" is the pipe's name.
        truncated: number of examples that were truncated.
        dropped: number of examples that were left out, as they have no token to train on.
        window: numbers of the run's batches that this pipe contains; slicing narrows it.
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
                f"pipe[{number}]: this pipe has {count_noun(len(self), 'batch', 'batches')}; raise epochs to "
                "train longer"
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
    """Builds a pipe of a table: rows are reshuffled each epoch, `batch_size` rows per batch.

    Args:
        table: see TablePipe.
        take: see TablePipe.
        rows: R >= 1.
        batch_size: B >= 1.
        key: a seed or a key [2] uint32; epoch e is shuffled under fold_in(fold_in_name(key, "shuffle"), e).
            None only with shuffle=False.
        epochs: passes through the table.
        shuffle: False keeps the rows in order.
        about: see TablePipe; error messages begin with its "pipe", and its "length" must be at least 1.
        wrap: see TablePipe.
        truncated: see TablePipe.
        dropped: see TablePipe.

    Returns:
        A TablePipe of ceil(epochs R / B) batches. Epochs are not padded, so one batch may end an epoch and
        begin the next; only the last batch of the run may have fewer than B rows, and is then padded.

    Raises:
        ValueError: if a size is below 1, or the table is empty.
        TypeError: if the key is missing.

    Example:
        >>> pipe = table_pipe((), lambda table, rows: {"row": rows}, rows=3, batch_size=2, key=None,
        ...                   epochs=1, shuffle=False, about={"pipe": "numbers", "length": 1})
        >>> [batch["row"].tolist() for batch in pipe]
        [[0, 1], [2, -1]]
    """
    name, length = about["pipe"], about["length"]
    for argument, value in (("batch_size", batch_size), ("length", length), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name}: {argument} must be at least 1, got {value}")
    if rows < 1:
        why = ""
        if dropped:
            why = f", as none of the {dropped} given has a token to train on within length {length}"
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
        key=fold_in_name(key_words(key), "shuffle") if shuffle else None,
        wrap=wrap,
        about=about,
        truncated=truncated,
        dropped=dropped,
        window=range(-(-epochs * rows // batch_size)),
    )


def batch_at(pipe: TablePipe, number: int) -> dict[str, Tensor]:
    """Computes batch `number` of the whole run, in time that does not depend on R.

    Args:
        pipe: the pipe; its window is ignored.
        number: batch number, in [0, number of batches).

    Returns:
        The arrays of the pipe's `take`, as tensors [B, ...]. They are new: writing to them does not change
        the pipe.

    Steps:
        1. Compute the B row slots of the batch, number B to number B + B - 1 of the run, and for each its
           epoch and its index in that epoch.
        2. Shuffle the indices of each epoch under the epoch's key.
        3. Take the rows; slots after the last epoch are padding.
    """
    # 1. Slots.
    slots = np.arange(number * pipe.batch_size, (number + 1) * pipe.batch_size)
    epochs, rows = np.divmod(slots, pipe.rows)
    # 2. Shuffle.
    if pipe.key is not None:
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            in_epoch = epochs == epoch
            rows[in_epoch] = permute(rows[in_epoch], pipe.rows, fold_in(pipe.key, epoch))
    # 3. Take.
    if not pipe.wrap:
        rows[epochs >= pipe.epochs] = -1
    return {name: torch.from_numpy(array) for name, array in pipe.take(pipe.table, rows).items()}


def describe(pipe: TablePipe) -> dict[str, Any]:
    """Describes as JSON values everything that determines the batches: equal descriptions, equal batches.

    Args:
        pipe: the pipe; its window is ignored.

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


def _digest(table: Any) -> str:
    """sha256 of the arrays of a table, with dtypes and shapes; a token store has its own digest."""
    return table.digest if isinstance(table, TokenStore) else hash_blocks(_blocks(table))


def _blocks(part: Any) -> Iterator[bytes | memoryview]:
    """Bytes of an array, or of every part of a tuple, each after a header with its dtype and shape."""
    if isinstance(part, tuple):
        yield f"({len(part)}".encode()
        for inner in part:
            yield from _blocks(inner)
    elif part is not None:
        yield f"{part.dtype.str}{part.shape}".encode()
        yield np.ascontiguousarray(part).data
