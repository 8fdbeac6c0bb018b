"""Attention as the paper writes it, one matrix of scores at a time.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, G = N/K query heads a key head, H
head width, R rows (some of the queries), C columns (some of the keys).

Vaswani et al., "Attention Is All You Need", 2017; Ainslie et al., "GQA", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TILES, LEAST = 4, 64
"""Queries are taken in at most 4 tiles of at least 64: measured on a CPU at T 256, forward and backward, 4
tiles take half the time of one, and 8 more than 4."""


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Computes attention with plain matrix products, a quarter of the queries at a time (all of them with
    `start`).

    A causal score matrix is half empty. A tile of queries meets only the keys up to its own end, so that most
    of the empty half is never computed; within the tile a mask does the rest.

        y = softmax(q Kᵀ / √H + mask) V

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H]; query head n reads key head n // G.
        start: [B] int64 index of the first query among the keys, 0 <= start <= S - T; None is 0.
        segment_ids: [B, T] integers (then S = T, without `start`); a query sees the keys of its own segment.
            None: one segment.
        keep: [B, N, T, S] factors on the weights behind the softmax, 0 or 1/(1 - p); None drops nothing.

    Returns:
        [B, T, N, H], dtype of q and of both products; scale, mask and softmax are taken in float32 (float64
        for float64).

    Steps:
        1. Lay the G query heads of a key head side by side: one product serves them all.
        2. Cut the queries into tiles of ⌈T/4⌉, but of 64 at least; where `start` is given the end of a tile
           is not known, so there is one.
        3. Attend from each tile to the keys before its end.
        4. Put the tiles together and the heads back in order.

    Edge cases: every query sees itself, so no row of scores is ever masked whole.

    Example:
        The second query finds both keys equal to it in score, and takes the mean of their values.

        >>> one = torch.ones(1, 2, 1, 1)
        >>> naive(one, one, torch.tensor([[[[2.0]], [[4.0]]]])).flatten()
        tensor([2., 3.])

    Source: Vaswani et al. 2017, equation 1. Differs from it: grouped heads, tiles.
    """
    length, keys, groups = q.shape[-3], k.shape[-3], q.shape[-2] // k.shape[-2]
    # 1. [B, K, T·G, H] against [B, K, S, H].
    heads, k, v = grouped(q, groups), k.transpose(-3, -2), v.transpose(-3, -2)
    # 2. Tiles.
    size = length if start is not None else max(-(-length // TILES), LEAST)
    rows, places = heads.split(size * groups, -2), size if start is None else keys
    ks, vs = k.split(places, -2), v.split(places, -2)
    tiles = []
    for i, tile in enumerate(rows):
        first, seen = i * size, min((i + 1) * places, keys)
        # 3. [B, K, R·G, H]
        queries = range(first, min(first + size, length))
        mask = allowed(queries, range(seen), start, segment_ids, q.device)
        dropped = None if keep is None else keep[..., first : queries.stop, :seen]
        tiles.append(_attend(tile, _join(ks[: i + 1]), _join(vs[: i + 1]), mask, dropped, groups))
    # 4. [B, T, N, H]
    return ungrouped(_join(tiles), groups)


def allowed(
    rows: range,
    columns: range,
    start: Tensor | None,
    segment_ids: Tensor | None,
    device: torch.device | None = None,
) -> Tensor:
    """Says which keys (columns) each query (row) may see: those not behind it, of its own segment.

    Args:
        rows: indices of R queries.
        columns: indices of C keys.
        start: [B] integers, index of the first query among the keys; None is 0.
        segment_ids: [B, T] or None.
        device: of the result.

    Returns:
        [..., R, C] bool, with a batch axis only if `start` or `segment_ids` has one; True where the query may
        look.

    Example:
        >>> allowed(range(1, 3), range(3), None, None).int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    row = torch.arange(rows.start, rows.stop, device=device)
    column = torch.arange(columns.start, columns.stop, device=device)
    mask = column <= (row if start is None else start[..., None] + row)[..., None]
    if segment_ids is not None:
        of_row, of_column = (
            segment_ids[..., rows.start : rows.stop],
            segment_ids[..., columns.start : columns.stop],
        )
        mask = mask & (of_row[..., :, None] == of_column[..., None, :])
    return mask


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Gives the most negative finite number to scores [B, K, R·G, C] float32 which the mask [..., R, C]
    forbids.

    Finite, so that a tile in which a query sees nothing gives no NaN.
    """
    groups = scores.shape[-2] // mask.shape[-2]
    wide = scores.unflatten(-2, (-1, groups))
    kept = torch.where(mask[..., None, :, None, :], wide, torch.finfo(scores.dtype).min)
    return kept.flatten(-3, -2)


def grouped(x: Tensor, groups: int) -> Tensor:
    """Brings the G heads that share keys together: [B, T, N, ...] -> [B, K, T·G, ...], a token's heads in a
    row.

    Example:
        >>> grouped(torch.arange(8).reshape(1, 2, 4, 1), 2).flatten(2)  # two tokens, heads (0 1)(2 3) and (4 5)(6 7)
        tensor([[[0, 1, 4, 5],
                 [2, 3, 6, 7]]])
    """
    return x.unflatten(-2, (-1, groups)).transpose(-4, -3).flatten(-3, -2)


def ungrouped(x: Tensor, groups: int) -> Tensor:
    """Undoes `grouped`: [B, K, T·G, H] -> [B, T, N, H]."""
    return x.unflatten(-2, (-1, groups)).transpose(-4, -3).flatten(-3, -2)


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums and exponentials are taken: float32, but float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _join(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces [B, K, c, H] -> [B, K, Σc, H]. (The gradient of a slice is a whole tensor of zeros around it;
    that of a piece joined is a piece.)"""
    return pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces), -2)


def _attend(rows: Tensor, k: Tensor, v: Tensor, mask: Tensor, keep: Tensor | None, groups: int) -> Tensor:
    """Attends from some rows to some columns: [B, K, R·G, H] and [B, K, C, H] -> [B, K, R·G, H]."""
    scores = (rows @ k.transpose(-1, -2)).to(precise(rows.dtype)) * rows.shape[-1] ** -0.5
    weights = masked(scores, mask).softmax(-1)
    if keep is not None:
        weights = weights * grouped(keep.transpose(-3, -2), groups)
    return weights.to(v.dtype) @ v
