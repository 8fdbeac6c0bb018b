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
        1. Group the G query heads of each key head with `grouped`, so that one product serves them all:
            queries [B, K, T·G, H], keys and values [B, K, S, H].
        2. Split the queries into tiles of R = ⌈T/4⌉ queries, at least 64 (`MAX_TILES`, `MIN_TILE`), which
            are R·G rows, and the keys and values into tiles of R. With `start` there is one tile, as its end
            is known only on the device.
        3. Attend with `_attend` from each tile to the keys up to its end, joined with `_join`; the mask is
            from `causal_mask`, the dropout mask is cut to the same queries and keys: [B, K, R·G, H].
        4. Concatenate the tiles with `_join` and restore the order of heads with `ungrouped`: [B, T, N, H].

    Edge cases: every query attends to itself, so no row of scores is masked completely. Without `start` and
    with more keys than queries, the keys after the last query are masked.

    Example:
        Both keys have the same score for the second query, so it takes the mean of their values.

        >>> one = torch.ones(1, 2, 1, 1)
        >>> naive(one, one, torch.tensor([[[[2.0]], [[4.0]]]])).flatten()
        tensor([2., 3.])

    Source: Vaswani et al. 2017, equation 1. Differs from it: grouped heads, tiles.
    """
    length, keys = q.shape[-3], k.shape[-3]
    groups = q.shape[-2] // k.shape[-2]
    # 1. Queries [B, K, T·G, H], keys and values [B, K, S, H].
    heads, k, v = grouped(q, groups), k.transpose(-3, -2), v.transpose(-3, -2)
    # 2. Tiles of R queries, [B, K, R·G, H], and of R keys; one tile with `start`.
    if start is None:
        queries_per_tile = keys_per_tile = max(-(-length // MAX_TILES), MIN_TILE)
    else:
        queries_per_tile, keys_per_tile = length, keys
    q_tiles = heads.split(queries_per_tile * groups, -2)
    k_tiles, v_tiles = k.split(keys_per_tile, -2), v.split(keys_per_tile, -2)
    outputs = []
    for i, q_tile in enumerate(q_tiles):
        begin, end = i * queries_per_tile, min((i + 1) * keys_per_tile, keys)
        # 3. Each tile attends to the keys up to its end: [B, K, R·G, H].
        rows = range(begin, min(begin + queries_per_tile, length))
        mask = causal_mask(rows, range(end), start, segment_ids, q.device)
        factors = None if dropout_mask is None else dropout_mask[..., begin : rows.stop, :end]
        k_seen, v_seen = _join(k_tiles[: i + 1]), _join(v_tiles[: i + 1])
        outputs.append(_attend(q_tile, k_seen, v_seen, mask, factors, groups))
    # 4. All tiles, heads in their order: [B, T, N, H].
    return ungrouped(_join(outputs), groups)


def causal_mask(
    rows: range,
    columns: range,
    start: Tensor | None,
    segment_ids: Tensor | None,
    device: torch.device | None = None,
) -> Tensor:
    """Marks the keys that each query attends to: those at or before its position, in its own segment.

    A model that predicts the next token must not see it. Several documents may be packed into one row, and
    then a token must not see another document either.

        mask(r, c) = c <= start + r  and  segment_ids(start + r) = segment_ids(c)

    Args:
        rows: indices r of R queries, counted from the first query.
        columns: indices c of C keys.
        start: [B] integers, index of the first query among the keys; None is 0.
        segment_ids: [B, S], of the keys, or None: one segment.
        device: of the result.

    Returns:
        [..., R, C] bool, with a batch axis only if `start` or `segment_ids` has one; True where the query
        attends to the key.

    Steps:
        1. Make the indices of the queries [R] and of the keys [C].
        2. Add `start` to those of the queries: the place of each query among the keys, [R] or [B, R].
        3. Compare: True where the key's index is at most the query's place, [..., R, C].
        4. With `segment_ids`, find the segment of each query at its place, and that of each key, and keep
            only the pairs in which they are equal.

    Edge cases: the columns may be fewer than the keys, and the rows fewer than the queries (a tile).

    Example:
        >>> causal_mask(range(1, 3), range(3), None, None).int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)

    Source: Vaswani et al. 2017, section 3.2.3.
    """
    # 1. Indices of the queries [R] and of the keys [C].
    row = torch.arange(rows.start, rows.stop, device=device)
    column = torch.arange(columns.start, columns.stop, device=device)
    # 2. Place of each query among the keys, [R] or [B, R].
    place = row if start is None else start[..., None] + row
    # 3. Keys at or before the place, [..., R, C].
    mask = column <= place[..., None]
    # 4. And of the same segment.
    if segment_ids is not None:
        query_segments = segment_ids[..., rows.start : rows.stop]
        if start is not None:
            query_segments = segment_ids.gather(-1, place)
        key_segments = segment_ids[..., columns.start : columns.stop]
        mask = mask & (query_segments[..., :, None] == key_segments[..., None, :])
    return mask


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Sets the scores of masked keys to the most negative finite number.

    The softmax gives them the weight 0. The number is finite, so that a tile in which every score of a query
    is masked gives no NaN.

    Args:
        scores: [B, K, R·G, C] float; rows are ordered by query, then by query head of the group.
        mask: [..., R, C] bool, the leading axis is B or missing; True keeps a score.

    Returns:
        [B, K, R·G, C], dtype of the scores.

    Steps:
        1. Split the rows into queries and heads: [B, K, R, G, C]; G is the ratio of the two numbers of rows.
        2. Give the mask axes for K and G, [..., 1, R, 1, C], and replace the scores where it is False by
            `torch.finfo(scores.dtype).min`.
        3. Join queries and heads again: [B, K, R·G, C].

    Edge cases: a masked score has gradient 0.

    Example:
        One query, two heads of its group, three keys of which the last is masked.

        >>> scores = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> masked(scores, torch.tensor([[True, True, False]])).softmax(-1)[..., 2].flatten()
        tensor([0., 0.])

    Source: Vaswani et al. 2017, section 3.2.3. Differs from it: a finite number in place of -∞.
    """
    # 1. Rows by query and head, [B, K, R, G, C].
    groups = scores.shape[-2] // mask.shape[-2]
    by_query = scores.unflatten(-2, (-1, groups))
    # 2. Replace where the mask [..., 1, R, 1, C] is False.
    result = torch.where(mask[..., None, :, None, :], by_query, torch.finfo(scores.dtype).min)
    # 3. Rows again, [B, K, R·G, C].
    return result.flatten(-3, -2)


def grouped(x: Tensor, groups: int) -> Tensor:
    """Groups the G query heads that share a key head: [B, T, N, H] -> [B, K, T·G, H].

    In grouped-query attention G query heads read the same keys. As rows of one matrix they are multiplied by
    these keys in one product, and no key is copied.

        result[b, k, t·G + g] = x[b, t, k·G + g]

    Args:
        x: [B, T, N, H].
        groups: G; N is a multiple of it, K = N/G.

    Returns:
        [B, K, T·G, H]: rows are ordered by token, then by head of the group.

    Steps:
        1. Split the heads: [B, T, K, G, H].
        2. Exchange tokens and key heads: [B, K, T, G, H].
        3. Join tokens and heads of a group: [B, K, T·G, H].

    Edge cases: with G = 1 (multi-head attention) it is a transposition; with G = N (multi-query) K is 1.

    Example:
        Two tokens, with heads (0 1)(2 3) and (4 5)(6 7).

        >>> grouped(torch.arange(8).reshape(1, 2, 4, 1), 2).flatten(2)
        tensor([[[0, 1, 4, 5],
                 [2, 3, 6, 7]]])

    Source: Ainslie et al. 2023, section 2.2.
    """
    # 1. [B, T, K, G, H]
    by_group = x.unflatten(-2, (-1, groups))
    # 2. [B, K, T, G, H]
    by_key_head = by_group.transpose(-4, -3)
    # 3. [B, K, T·G, H]
    return by_key_head.flatten(-3, -2)


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
    """Attends from some rows to some columns.

    One tile of `naive`: a weighted mean of the values, with the weights of each row from its own scores.

        y = dropout(softmax(rows Kᵀ / √H + mask)) V

    Args:
        rows: [B, K, R·G, H] queries, grouped.
        k, v: [B, K, C, H].
        mask: [..., R, C] bool, see `causal_mask`.
        dropout_mask: [B, N, R, C] factors on the weights, 0 or 1/(1 - p); None drops nothing.
        groups: G.

    Returns:
        [B, K, R·G, H], dtype of v.

    Steps:
        1. Multiply rows and keys in their dtype, convert the scores to `accumulation_dtype(rows.dtype)`, and
            divide by √H: [B, K, R·G, C].
        2. Mask them with `masked`, and take the softmax over the keys.
        3. Multiply the weights by the dropout mask, brought to their layout with `grouped`.
        4. Convert the weights to the dtype of v, and multiply by the values: [B, K, R·G, H].

    Edge cases: dropout does not normalise again; a row whose weights are all dropped gives zeros.

    Example:
        The two keys have equal scores, so the query takes the mean of their values.

        >>> one, v = torch.ones(1, 1, 1, 1), torch.tensor([[[[2.0], [4.0]]]])
        >>> _attend(one, torch.ones(1, 1, 2, 1), v, torch.tensor([[True, True]]), None, 1).flatten()
        tensor([3.])

    Source: Vaswani et al. 2017, equation 1.
    """
    # 1. Scores [B, K, R·G, C], float32.
    scores = (rows @ k.transpose(-1, -2)).to(accumulation_dtype(rows.dtype)) * rows.shape[-1] ** -0.5
    # 2. Weights [B, K, R·G, C].
    weights = masked(scores, mask).softmax(-1)
    # 3. Dropout, [B, N, R, C] -> [B, K, R·G, C].
    if dropout_mask is not None:
        weights = weights * grouped(dropout_mask.transpose(-3, -2), groups)
    # 4. Weighted means of the values, [B, K, R·G, H].
    return weights.to(v.dtype) @ v
