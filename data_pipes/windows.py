"""Overlapping windows over a token store, for evaluation: each token is predicted once, with context.

Shape letters: B windows in a batch, T tokens in a window, N tokens of the store.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from data_pipes.pack import segments
from data_pipes.pretrain import Boundaries
from data_pipes.table import TablePipe, table_pipe
from data_pipes.tokens import TokenStore
from pure.loss.cross_entropy import IGNORE


def windows(
    store: TokenStore, *, batch_size: int, length: int, stride: int, boundaries: Boundaries = "ignore"
) -> TablePipe:
    """Cuts a store into windows of `length` that begin `stride` apart, each predicting only its new tokens.

    Without overlap the first tokens of every row are predicted with almost no context, and the model looks
    worse than it is.

    Args:
        store: tokens.
        batch_size: B windows a batch.
        length: T tokens.
        stride: tokens between starts, from 1 to `length`; `length` gives rows without overlap.
        boundaries: as in training: "mask" separates documents; their first tokens are not predicted.

    Returns:
        A sequence of ceil(rows / B) batches of `take`, with rows = 1 + max(0, ceil((N - 1 - T) / stride)).
        Each token of the store but the first is the label of exactly one position (with "mask" except the
        first tokens of documents), with at least T - stride tokens before it except in the first window. The
        last batch is filled with rows of padding.

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
            f"windows: expected 1 <= stride <= length and batch_size >= 1, got stride {stride}, "
            f"length {length}, batch_size {batch_size}"
        )
    return table_pipe(
        store,
        partial(take, length=length, stride=stride, boundaries=boundaries),
        rows=1 + max(0, -(-(len(store.tokens) - 1 - length) // stride)),
        batch_size=batch_size,
        key=None,
        epochs=1,
        shuffle=False,
        about={"pipe": "windows", "length": length, "stride": stride, "boundaries": boundaries},
    )


def take(
    store: TokenStore, rows: np.ndarray, *, length: int, stride: int, boundaries: Boundaries
) -> dict[str, np.ndarray]:
    """Cuts windows out of a store.

    A window overlaps the one before it by T - stride tokens. These are inputs only: each token of the store
    is a label once, with at least T - stride tokens before it.

        tokens[r, t] = x[r · stride + t]
        labels[r, t] = x[r · stride + t + 1] if r = 0 or t >= T - stride, else -100

    with x the tokens of the store, r from rows, T = length.

    Args:
        store: tokens.
        rows: [B] int64, numbers of windows, -1 for a row of padding.
        length: T.
        stride: tokens between starts.
        boundaries: see `windows`.

    Returns:
        "tokens" [B, T] and "labels" [B, T], int64, -100 where the next token is not new; with
        boundaries="mask" also "segment_ids" and "positions" [B, T], int64.

    Steps:
        1. Begin with tokens (and segment ids and positions) 0 and labels `IGNORE`, [B, T].
        2. Window r begins at token r · stride of the store and has T + 1 tokens, fewer at the end; all but
           the last are the row's tokens. A row of padding stays as it is.
        3. Labels are the next tokens, but only from position T - stride on; in window 0 all of them.
        4. With boundaries="mask" compute the row's `segments` with the ends of documents relative to its
           start (as row 0, or as row -1 for padding, of such a stream); set the labels to `IGNORE` where the
           next token has another segment id, and drop column T of both.

    Edge cases: a row of padding has token 0, label -100, and with "mask" segment 0 and positions 0 ... T-1.

    Example:
        >>> from data_pipes.tokens import memory_store
        >>> store = memory_store([[1, 2, 3], [4, 5, 6, 7]], vocab_size=8)
        >>> batch = take(store, np.array([0, 1]), length=4, stride=2, boundaries="mask")
        >>> batch["tokens"].tolist(), batch["labels"].tolist(), batch["positions"].tolist()
        ([[1, 2, 3, 4], [3, 4, 5, 6]], [[2, 3, -100, 5], [-100, -100, 6, 7]], [[0, 1, 2, 0], [0, 0, 1, 2]])
    """
    # 1. Rows of padding [B, T].
    tokens, labels = np.zeros((len(rows), length), np.int64), np.full((len(rows), length), IGNORE, np.int64)
    segment_ids, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for batch_position, row in enumerate(rows.tolist()):
        start = max(row, 0) * stride
        if row >= 0:
            # 2. The window, at most T + 1 tokens.
            window = store.tokens[start : start + length + 1]
            predicted = max(len(window) - 1, 0)
            tokens[batch_position, :predicted] = window[:predicted]
            # 3. Labels of new tokens.
            first_new = 0 if row == 0 else length - stride
            labels[batch_position, first_new:predicted] = window[first_new + 1 : predicted + 1]
        # 4. Documents.
        if boundaries == "mask":
            (ids,), (offsets,) = segments(store.ends - start, np.minimum([row], 0), length)
            labels[batch_position, ids[1:] != ids[:-1]] = IGNORE
            segment_ids[batch_position], positions[batch_position] = ids[:-1], offsets[:-1]
    batch = {"tokens": tokens, "labels": labels}
    return batch | {"segment_ids": segment_ids, "positions": positions} if boundaries == "mask" else batch
