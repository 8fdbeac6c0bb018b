"""The pretraining pipe: a store of tokens as a sequence of batches, each a pure function of its index.

Nothing is iterated and nothing is remembered: batch i is computed from (store, key, i). So a run resumes
exactly where it stopped with `pipe[int(state.step):]`, on any machine, with any number of loader processes.

Shape letters: B rows in a batch, T tokens in a row.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from data_pipes.pack import cut, row_count, segments
from data_pipes.shuffle import fold_in, key_words, named, shuffled
from data_pipes.tokens import TokenStore
from pure.loss.cross_entropy import IGNORE


@dataclass(frozen=True, eq=False, kw_only=True)
class PretrainPipe:
    """Batches of a token store; made by `pretrain_pipe`, a list to all who use it (index, slice, len,
    iterate).

    Args:
        store: the corpus.
        batch_size: B.
        length: T.
        epochs: times that the corpus is seen.
        boundaries: "ignore" or "mask".
        key: two words; None reads the rows in order.
        window: which batches of the whole run this pipe shows; slicing narrows it.
    """

    store: TokenStore
    batch_size: int
    length: int
    epochs: int
    boundaries: Literal["ignore", "mask"]
    key: tuple[int, int] | None
    window: range

    def __len__(self) -> int:
        return len(self.window)

    @overload
    def __getitem__(self, index: slice) -> PretrainPipe: ...
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


def pretrain_pipe(
    store: TokenStore,
    *,
    batch_size: int,
    length: int,
    key: Any,
    epochs: int = 1,
    boundaries: Literal["ignore", "mask"] = "ignore",
    shuffle: bool = True,
) -> PretrainPipe:
    """Builds the pipe: the corpus cut into rows of `length`, shuffled anew each epoch, `batch_size` rows a
    batch.

    Args:
        store: a TokenStore, mapped or in memory.
        batch_size: B, rows.
        length: T, tokens; each row predicts the T tokens after its first.
        key: a seed or a key [2] uint32; epoch e is shuffled under fold_in(named(key, "shuffle"), e). None
            only with shuffle=False.
        epochs: how often the corpus is seen; `len(pipe)` covers all of them.
        boundaries: "ignore" lets a row run over documents (the separator tells them apart); "mask" adds
            segment_ids and positions, and predicts nothing across a boundary.
        shuffle: False keeps the rows in order (evaluation).

    Returns:
        A sequence of ceil(epochs rows / B) batches, rows = ceil((N - 1) / T). See `batch_at` for what is in a
        batch. Each epoch predicts each token but the corpus's first exactly once (with "mask" none that
        begins a document). Epochs follow each other without a gap, so one batch may end an epoch and begin
        the next; only the very last can lack rows, which are then padding.

    Raises:
        ValueError: if the corpus is shorter than one row, or a size is below 1, or boundaries is unknown.
        TypeError: if the key is missing.

    Example:
        >>> from data_pipes.tokens import memory_store
        >>> store = memory_store([[1, 2, 3, 4], [5, 6, 7]], vocab_size=8)
        >>> pipe = pretrain_pipe(store, batch_size=2, length=3, key=None, shuffle=False)
        >>> pipe[0]["tokens"].tolist(), pipe[0]["labels"].tolist(), len(pipe), len(pipe[1:])
        ([[1, 2, 3], [4, 5, 6]], [[2, 3, 4], [5, 6, 7]], 1, 0)
    """
    for name, value in (("batch_size", batch_size), ("length", length), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"pretrain_pipe: {name} must be at least 1, got {value}")
    if boundaries not in ("ignore", "mask"):
        raise ValueError(f"pretrain_pipe: boundaries must be 'ignore' or 'mask', got {boundaries!r}")
    if len(store.tokens) <= length:
        raise ValueError(
            f"pretrain_pipe: the corpus has {len(store.tokens)} tokens, and one row of length {length} takes "
            f"{length + 1}; pass length={max(len(store.tokens) - 1, 1)} or less, or more text"
        )
    if key is None and shuffle:
        raise TypeError(
            "pretrain_pipe: shuffling needs a key; pass key=0 (any seed), or shuffle=False to read in order"
        )
    batches = -(-epochs * row_count(len(store.tokens), length) // batch_size)
    return PretrainPipe(
        store=store,
        batch_size=batch_size,
        length=length,
        epochs=epochs,
        boundaries=boundaries,
        key=named(key_words(key), "shuffle") if shuffle else None,
        window=range(batches),
    )


def batch_at(pipe: PretrainPipe, number: int) -> dict[str, Tensor]:
    """Computes batch `number` of the whole run, in O(B T).

    Args:
        pipe: its window is not looked at.
        number: in [0, number of batches).

    Returns:
        "tokens" [B, T] int64; "labels" [B, T] int64, the token after each, -100 where none is predicted;
        "index" [B] int64, the number of the row in the store, -1 for padding. With boundaries="mask" also
        "segment_ids" [B, T] and "positions" [B, T], int64. All are the caller's own: writing to them changes
        nothing in the pipe.

    Steps:
        1. Which rows: the places number B to number B + B - 1 of the run, through the shuffle of their epoch.
        2. Cut them out of the stream.
        3. Masked boundaries: number documents and positions, and ignore labels that lie in another document.
    """
    # 1. Which rows.
    rows = _rows(pipe, number)
    # 2. Tokens and labels.
    tokens, labels = cut(pipe.store.tokens, rows, pipe.length, ignore=IGNORE)
    batch = {"tokens": tokens, "labels": labels, "index": rows}
    # 3. Boundaries.
    if pipe.boundaries == "mask":
        ids, positions = segments(pipe.store.ends, rows, pipe.length)
        labels[ids[:, 1:] != ids[:, :-1]] = IGNORE
        batch |= {"segment_ids": ids[:, :-1].copy(), "positions": positions[:, :-1].copy()}
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def describe(pipe: PretrainPipe) -> dict[str, Any]:
    """Says in plain JSON what decides the batches, for a run's manifest: pipes that agree here give equal
    batches.

    Example:
        >>> from data_pipes.tokens import memory_store
        >>> pipe = pretrain_pipe(memory_store([[1, 2, 3]], vocab_size=8), batch_size=1, length=2, key=0)
        >>> describe(pipe[1:]) == describe(pipe), describe(pipe)["length"]
        (True, 2)
    """
    return {
        "pipe": "pretrain",
        "store": pipe.store.digest,
        "tokenizer": pipe.store.tokenizer,
        "batch_size": pipe.batch_size,
        "length": pipe.length,
        "epochs": pipe.epochs,
        "boundaries": pipe.boundaries,
        "key": pipe.key,
    }


def _rows(pipe: PretrainPipe, number: int) -> np.ndarray:
    """[B] int64: the rows of a batch, -1 after the end of the last epoch."""
    per_epoch = row_count(len(pipe.store.tokens), pipe.length)
    places = np.arange(number * pipe.batch_size, (number + 1) * pipe.batch_size)
    epochs, rows = np.divmod(places, per_epoch)
    if pipe.key is not None:
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            rows[here] = shuffled(rows[here], per_epoch, fold_in(pipe.key, epoch))
    rows[epochs >= pipe.epochs] = -1
    return rows
