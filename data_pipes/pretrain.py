"""The pretraining pipe: a store of tokens as a sequence of batches.

Shape letters: B rows in a batch, T tokens in a row, N tokens of the corpus.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np

from data_pipes.pack import cut_rows, row_count, segments
from data_pipes.table import TablePipe, table_pipe
from data_pipes.tokens import TokenStore
from pure.loss.cross_entropy import IGNORE

Boundaries = Literal["ignore", "mask"]
"""Treatment of document boundaries inside a row."""


def pretrain_pipe(
    store: TokenStore,
    *,
    batch_size: int,
    length: int,
    key: Any,
    epochs: int = 1,
    boundaries: Boundaries = "ignore",
    shuffle: bool = True,
) -> TablePipe:
    """Builds the pipe: cuts the corpus into rows, reshuffled each epoch, `batch_size` rows per batch.

    Args:
        store: a TokenStore, mapped or in memory.
        batch_size: B, rows.
        length: T, tokens; each row predicts the T tokens after its first.
        key: a seed or a key [2] uint32; epoch e is shuffled under fold_in(fold_in_name(key, "shuffle"), e).
            None only with shuffle=False.
        epochs: passes through the corpus; `len(pipe)` covers all of them.
        boundaries: "ignore" adds no mask, so that tokens attend to earlier documents in their row; "mask"
            adds segment_ids and positions, and ignores labels that cross a boundary.
        shuffle: False keeps the rows in order (evaluation).

    Returns:
        A sequence of ceil(epochs rows / B) batches, rows = ceil((N - 1) / T); see `take`. Each epoch predicts
        each token of the corpus except the first exactly once (with "mask" also except the first of each
        document). Only the very last batch may end with padding rows.

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
    if boundaries not in ("ignore", "mask"):
        raise ValueError(f"pretrain_pipe: boundaries must be 'ignore' or 'mask', got {boundaries!r}")
    tokens = len(store.tokens)
    if tokens <= length:
        raise ValueError(
            f"pretrain_pipe: the corpus has {tokens} tokens, and one row of length {length} takes "
            f"{length + 1}; pass length={max(tokens - 1, 1)} or less, or more text"
        )
    return table_pipe(
        store,
        partial(take, length=length, boundaries=boundaries),
        rows=row_count(tokens, length) if length > 0 else 1,
        batch_size=batch_size,
        key=key,
        epochs=epochs,
        shuffle=shuffle,
        about={
            "pipe": "pretrain",
            "length": length,
            "boundaries": boundaries,
            "tokenizer": store.tokenizer,
        },
    )


def take(
    store: TokenStore, rows: np.ndarray, *, length: int, boundaries: Boundaries
) -> dict[str, np.ndarray]:
    """Cuts rows of tokens and labels out of the store.

    Args:
        store: the corpus.
        rows: [B] int64, -1 for a row of padding.
        length: T.
        boundaries: see `pretrain_pipe`.

    Returns:
        "tokens" [B, T] int64; "labels" [B, T] int64, the token after each, -100 where none is predicted;
        "row" [B] int64, the row's number in the corpus, -1 for padding. With boundaries="mask" also
        "segment_ids" [B, T] and "positions" [B, T], int64.
    """
    tokens, labels = cut_rows(store.tokens, rows, length, ignore=IGNORE)
    batch = {"tokens": tokens, "labels": labels, "row": rows}
    if boundaries == "mask":
        ids, positions = segments(store.ends, rows, length)
        labels[ids[:, 1:] != ids[:, :-1]] = IGNORE
        batch |= {"segment_ids": ids[:, :-1].copy(), "positions": positions[:, :-1].copy()}
    return batch
