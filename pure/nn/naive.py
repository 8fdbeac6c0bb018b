"""Attention with plain matrix products, computed in tiles of queries.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, G = N/K query heads per key
head, H head width, R rows (some of the queries), C columns (some of the keys).

Vaswani et al., "Attention Is All You Need", 2017; Ainslie et al., "GQA", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_TILES, MIN_TILE = 4, 64
"""Queries are split into at most 4 tiles of at least 64 queries. Measured on a CPU at T = 256, forward and
backward: 4 tiles take half the time of one tile, 8 take more than 4."""


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    dropout_mask: Tensor | None = None,
) -> Tensor:
    """Computes attention with plain matrix products, a quarter of the queries at a time.

    Half of a causal score matrix is masked. A tile of queries is multiplied only by the keys up to the tile's
    end, so most of the masked half is never computed; a mask covers the rest.

        y = softmax(q Kᵀ / √H + mask) V

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H]; query head n reads key head n // G.
        start: [B] int64 index of the first query among the keys, 0 <= start <= S - T; None is 0.
        segment_ids: [B, S] integers, segments of the keys; query i is key `start` + i, and attends only to
            keys of its own segment. None: one segment.
        dropout_mask: [B, N, T, S] factors on the weights after the softmax, 0 or 1/(1 - p); None drops
            nothing.

    Returns:
        [B, T, N, H], dtype of q and of both products; scale, mask and softmax are taken in float32 (float64
        for float64).

    Steps:
        1. Group the G query heads of each key head, so that one product serves them all.
        2. Split the queries into tiles of ⌈T/4⌉, at least 64. With `start` there is one tile, as its end is
           known only on the device.
        3. Attend from each tile to the keys up to its end.
        4. Concatenate the tiles and restore the order of heads.

    Edge cases: every query attends to itself, so no row of scores is masked completely.

    Example:
        Both keys have the same score for the second query, so it takes the mean of their values.

        >>> one = torch.ones(1, 2, 1, 1)
        >>> naive(one, one, torch.tensor([[[[2.0]], [[4.0]]]])).flatten()
        tensor([2., 3.])

    Source: Vaswani et al. 2017, equation 1. Differs from it: grouped heads, tiles.
    """
    length, keys = q.shape[-3], k.shape[-3]
    groups = q.shape[-2] // k.shape[-2]
    # 1. [B, K, T·G, H] against [B, K, S, H].
    heads, k, v = grouped(q, groups), k.transpose(-3, -2), v.transpose(-3, -2)
    # 2. Tiles.
    if start is None:
        queries_per_tile = keys_per_tile = max(-(-length // MAX_TILES), MIN_TILE)
    else:
        queries_per_tile, keys_per_tile = length, keys
    q_tiles = heads.split(queries_per_tile * groups, -2)
    k_tiles, v_tiles = k.split(keys_per_tile, -2), v.split(keys_per_tile, -2)
    outputs = []
    for i, q_tile in enumerate(q_tiles):
        begin, end = i * queries_per_tile, min((i + 1) * keys_per_tile, keys)
        # 3. [B, K, R·G, H]
        rows = range(begin, min(begin + queries_per_tile, length))
        mask = causal_mask(rows, range(end), start, segment_ids, q.device)
        factors = None if dropout_mask is None else dropout_mask[..., begin : rows.stop, :end]
        k_seen, v_seen = _join(k_tiles[: i + 1]), _join(v_tiles[: i + 1])
        outputs.append(_attend(q_tile, k_seen, v_seen, mask, factors, groups))
    # 4. [B, T, N, H]
    return ungrouped(_join(outputs), groups)


def causal_mask(
    rows: range,
    columns: range,
    start: Tensor | None,
    segment_ids: Tensor | None,
    device: torch.device | None = None,
) -> Tensor:
    """Marks the keys that each query attends to: those at or before its position, in its own segment.

    Args:
        rows: indices of R queries.
        columns: indices of C keys.
        start: [B] integers, index of the first query among the keys; None is 0.
        segment_ids: [B, S], of the keys, or None.
        device: of the result.

    Returns:
        [..., R, C] bool, with a batch axis only if `start` or `segment_ids` has one; True where the query
        attends to the key.

    Example:
        >>> causal_mask(range(1, 3), range(3), None, None).int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    row = torch.arange(rows.start, rows.stop, device=device)
    column = torch.arange(columns.start, columns.stop, device=device)
    place = row if start is None else start[..., None] + row
    mask = column <= place[..., None]
    if segment_ids is not None:
        query_segments = segment_ids[..., rows.start : rows.stop]
        if start is not None:
            query_segments = segment_ids.gather(-1, place)
        key_segments = segment_ids[..., columns.start : columns.stop]
        mask = mask & (query_segments[..., :, None] == key_segments[..., None, :])
    return mask


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Sets the scores [B, K, R·G, C] where the mask [..., R, C] is False to the most negative finite number.

    Finite, so that a tile in which every score of a query is masked gives no NaN.
    """
    groups = scores.shape[-2] // mask.shape[-2]
    by_query = scores.unflatten(-2, (-1, groups))  # [B, K, R, G, C]
    result = torch.where(mask[..., None, :, None, :], by_query, torch.finfo(scores.dtype).min)
    return result.flatten(-3, -2)


def grouped(x: Tensor, groups: int) -> Tensor:
    """Groups the G query heads that share a key head: [B, T, N, ...] -> [B, K, T·G, ...].

    Example:
        Two tokens, with heads (0 1)(2 3) and (4 5)(6 7).

        >>> grouped(torch.arange(8).reshape(1, 2, 4, 1), 2).flatten(2)
        tensor([[[0, 1, 4, 5],
                 [2, 3, 6, 7]]])
    """
    return x.unflatten(-2, (-1, groups)).transpose(-4, -3).flatten(-3, -2)


def ungrouped(x: Tensor, groups: int) -> Tensor:
    """Undoes `grouped`: [B, K, T·G, H] -> [B, T, N, H]."""
    return x.unflatten(-2, (-1, groups)).transpose(-4, -3).flatten(-3, -2)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which sums and exponentials are computed: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _join(pieces: Sequence[Tensor]) -> Tensor:
    """Concatenates pieces [B, K, c, H] along the third axis: [B, K, Σc, H].

    (A slice of the full tensor would need a gradient padded with zeros to the full size; a piece does not.)
    """
    return pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces), -2)


def _attend(
    rows: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout_mask: Tensor | None, groups: int
) -> Tensor:
    """Attends from some rows to some columns: [B, K, R·G, H] and [B, K, C, H] -> [B, K, R·G, H]."""
    scores = (rows @ k.transpose(-1, -2)).to(accumulation_dtype(rows.dtype)) * rows.shape[-1] ** -0.5
    weights = masked(scores, mask).softmax(-1)
    if dropout_mask is not None:
        weights = weights * grouped(dropout_mask.transpose(-3, -2), groups)
    return weights.to(v.dtype) @ v
