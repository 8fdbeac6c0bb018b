"""Overlapping windows: every token is predicted once, with T - stride tokens before it but for the first
window's.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data_pipes.pack import segments
from data_pipes.tokens import TokenStore
from pure.loss.cross_entropy import IGNORE


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The batches of a store in order, for evaluation; see `windows`."""

    store: TokenStore
    batch_size: int
    length: int
    stride: int
    boundaries: Literal["ignore", "mask"]

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    @property
    def rows(self) -> int:
        """Windows that it takes to predict every token but the first."""
        return 1 + max(0, -(-(len(self.store.tokens) - 1 - self.length) // self.stride))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = operator.index(index)
        if not 0 <= number < len(self):
            raise IndexError(f"windows[{number}]: there are {len(self)} batches")
        first = number * self.batch_size
        rows = [_row(self, row) for row in range(first, first + self.batch_size)]
        columns = [torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)]
        names = ("tokens", "labels", "segment_ids", "positions")[: len(columns)]
        return dict(zip(names, columns, strict=True))


def windows(
    store: TokenStore,
    *,
    batch_size: int,
    length: int,
    stride: int,
    boundaries: Literal["ignore", "mask"] = "ignore",
) -> Windows:
    """Cuts a store into windows of `length` that begin `stride` apart, each predicting only what is new in
    it.

    A model judged on rows that follow each other without overlap predicts the first words of each with no
    context, and looks worse than it is.

    Args:
        store: tokens.
        batch_size: B windows a batch.
        length: T tokens.
        stride: tokens between starts, from 1 to `length`; `length` gives rows without overlap.
        boundaries: as the model was trained: "mask" keeps documents apart, and predicts none's first token.

    Returns:
        A sequence of {"tokens" [B, T], "labels" [B, T]}, int64, with "mask" also "segment_ids" and
        "positions"; each token of the store but the first is the label of exactly one place (with "mask" none
        that begins a document), all others are -100; missing rows of the last batch are padding.

    Raises:
        ValueError: if a size is out of range.

    Example:
        >>> from data_pipes.tokens import memory_store
        >>> store = memory_store([[1, 2, 3, 4, 5, 6, 7]], vocab_size=8)
        >>> windows(store, batch_size=2, length=4, stride=2)[0]["labels"].tolist()
        [[2, 3, 4, 5], [-100, -100, 6, 7]]
    """
    if not 1 <= stride <= length or batch_size < 1:
        raise ValueError(
            f"windows: expected 1 <= stride <= length and batch_size >= 1, got stride {stride}, length {length}, "
            f"batch_size {batch_size}"
        )
    return Windows(store=store, batch_size=batch_size, length=length, stride=stride, boundaries=boundaries)


def _row(pipe: Windows, row: int) -> tuple[np.ndarray, ...]:
    """One window: tokens and labels, and where boundaries count segments and positions; each [T]."""
    tokens, labels = np.zeros(pipe.length, np.int64), np.full(pipe.length, IGNORE, np.int64)
    start = row * pipe.stride
    piece = pipe.store.tokens[start : start + pipe.length + 1].astype(np.int64)
    if row < pipe.rows and len(piece) > 1:
        tokens[: len(piece) - 1], labels[: len(piece) - 1] = piece[:-1], piece[1:]
        labels[: 0 if row == 0 else pipe.length - pipe.stride] = IGNORE
    if pipe.boundaries == "ignore":
        return tokens, labels
    ids, positions = (x[0] for x in segments(pipe.store.ends - start, np.zeros(1, np.int64), pipe.length))
    labels[ids[1:] != ids[:-1]] = IGNORE
    return tokens, labels, ids[:-1], positions[:-1]
