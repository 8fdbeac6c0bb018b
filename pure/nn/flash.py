"""FlashAttention written to be read: scores exist for one tile of keys at a time, never for all at once.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, G = N/K query heads per key
head, H head width, C keys in a tile, R queries that attend to keys of the tile.

Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure.nn.naive import accumulation_dtype, causal_mask, grouped, masked, ungrouped
from pure.transform.graph_node import graph_node
from pure.transform.modes import is_forward_mode

TILE = 128
"""Default number of keys in a tile."""


class _Problem(NamedTuple):
    """Arguments of one call: q [B, K, T·G, H], k and v [B, K, S, H], dropout_mask [B, K, T·G, S] or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    start: Tensor | None
    segment_ids: Tensor | None
    dropout_mask: Tensor | None
    groups: int
    tile: int


def flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    tile: int = TILE,
) -> Tensor:
    """Computes the same as `pure.nn.naive.naive`, in memory that grows with T and not with T².

    A softmax needs the maximum and the sum of its row. Both can be updated tile by tile: when a tile has a
    larger score, the sums so far are rescaled to the new maximum.

        m' = max(m, max_j s_j)
        l' = l e^(m-m') + Σ_j e^(s_j-m')
        a' = a e^(m-m') + Σ_j e^(s_j-m') v_j
        y  = a / l

    For the gradient only y and L = m + ln l are saved; each tile of weights is recomputed as P = e^(S - L).
    (Under forward-mode differentiation the loop itself is differentiated, and a gradient saves its tiles.)

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H].
        start, segment_ids, dropout_mask: as in `naive`. (A dropout mask [B, N, T, S] takes T² memory again.)
        tile: C, keys in a tile, >= 1. A compiler unrolls the loop over the T / C tiles.

    Returns:
        [B, T, N, H], dtype of q; scores, sums and the gradient's parts in float32.

    Raises:
        ValueError: if tile < 1.

    Example:
        >>> one = torch.ones(1, 2, 1, 1)
        >>> flash(one, one, torch.tensor([[[[2.0]], [[4.0]]]]), tile=1).flatten()
        tensor([2., 3.])

    Source: Dao et al. 2022, algorithms 1 and 4. Differs from it: one loop, over keys; all queries at once.
    """
    if tile < 1:
        raise ValueError(f"flash: tile is a number of keys and must be at least 1, got {tile}")
    groups = q.shape[-2] // k.shape[-2]
    heads = grouped(q, groups), k.transpose(-3, -2), v.transpose(-3, -2)
    if dropout_mask is not None:
        dropout_mask = grouped(dropout_mask.transpose(-3, -2), groups)
    y, _ = _flash(*heads, start, segment_ids, dropout_mask, groups, tile)
    return ungrouped(y, groups)


class _Flash(torch.autograd.Function):
    """Computes (y, L); saves only the arguments and results for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*problem: Any) -> tuple[Tensor, Tensor]:
        return _forward(_Problem(*problem))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, groups, tile = inputs
        ctx.sizes = (groups, tile)
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, d_log_sum: Tensor) -> tuple:
        *tensors, y, log_sum = ctx.saved_tensors
        grads = _backward(_Problem(*tensors, *ctx.sizes), y, log_sum, dy, d_log_sum)
        return (*grads, None, None, None, None, None)


@graph_node
def _flash(*problem: Any) -> tuple[Tensor, Tensor]:
    """Applies `_Flash` as one node of a compiler's graph (else vmap inside a compiled function fails)."""
    if is_forward_mode():
        return _forward(_Problem(*problem))
    return _Flash.apply(*problem)


def _forward(p: _Problem) -> tuple[Tensor, Tensor]:
    """Loops over the tiles of keys: y [B, K, T·G, H] and L [B, K, T·G, 1].

    Steps:
        1. Initialise: a = 0, l = 0, m the most negative finite number.
        2. The scores of a tile of keys and the queries at or after its first key, then the three updates.
        3. The queries at the tile's own positions are finished (unless `start` moves them): set them aside.
    """
    # 1. a is `gathered`, l is `total`, m is `top`.
    gathered = torch.zeros_like(p.q, dtype=accumulation_dtype(p.q.dtype))
    total = gathered[..., :1]
    top = torch.full_like(total, torch.finfo(total.dtype).min)
    done = []
    for query, begin, end in _tiles(p):
        # 2. m', l', a'.
        scores = _scores(p, query, begin, end)
        top, old = torch.maximum(top, scores.amax(-1, keepdim=True)), top
        weights, shrink = (scores - top).exp(), (old - top).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        mixed = _drop(p, weights, query, begin, end).to(p.v.dtype) @ p.v[..., begin:end, :]
        gathered = gathered * shrink + mixed
        # 3. Finished queries.
        rows = (end - begin) * p.groups if p.start is None else 0
        done.append((gathered[..., :rows, :], total[..., :rows, :], top[..., :rows, :]))
        gathered, total, top = gathered[..., rows:, :], total[..., rows:, :], top[..., rows:, :]
    gathered, total, top = (torch.cat(parts, -2) for parts in zip(*done, (gathered, total, top), strict=True))
    return (gathered / total).to(p.q.dtype), top + total.log()


def _backward(
    p: _Problem, y: Tensor, log_sum: Tensor, dy: Tensor, d_log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loops over the tiles of keys again: (dq, dk, dv), shaped like q, k and v.

        P = e^(S - L),  dV = Pᵀ dy,  dP = dy Vᵀ,  dS = P (dP - Σ_h dy y + dL)
        dq = dS K / √H,  dK = dSᵀ q / √H

    Steps:
        1. The term that all keys of a row share: Σ_h dy y, which is Σ_j P dP.
        2. The tile's weights, recomputed.
        3. The gradients of values, weights, scores, queries and keys.
        4. The queries at the tile's own positions are finished: set their gradient aside.
    """
    # 1. [B, K, T·G, 1]
    shared = (dy * y).to(log_sum.dtype).sum(-1, keepdim=True) - d_log_sum
    dq = torch.zeros_like(p.q, dtype=log_sum.dtype)
    dk, dv, done = [], [], []
    for query, begin, end in _tiles(p):
        tail = slice(query * p.groups, None)  # rows of the queries that attend to the tile
        k, v = p.k[..., begin:end, :], p.v[..., begin:end, :]
        q, dy_tail = p.q[..., tail, :], dy[..., tail, :]
        # 2. [B, K, R·G, C]
        scores = _scores(p, query, begin, end, by_key=True)
        weights = (scores - log_sum[..., tail, :]).exp()
        # 3. dV, dP, dS, dq, dK.
        dv.append(_drop(p, weights, query, begin, end).to(dy.dtype).transpose(-1, -2) @ dy_tail)
        d_weights = _drop(p, dy_tail @ v.transpose(-1, -2), query, begin, end)
        d_scores = (weights * (d_weights - shared[..., tail, :]) * q.shape[-1] ** -0.5).to(q.dtype)
        dq = dq + d_scores @ k
        dk.append(d_scores.transpose(-1, -2) @ q)
        # 4. Finished queries.
        rows = (end - begin) * p.groups if p.start is None else 0
        done.append(dq[..., :rows, :])
        dq = dq[..., rows:, :]
    unseen = torch.zeros_like(p.k[..., end:, :])  # keys after the last tile: no query attends to them
    return (
        torch.cat([*done, dq], -2).to(p.q.dtype),
        torch.cat([*dk, unseen], -2),
        torch.cat([*dv, unseen], -2),
    )


def _tiles(p: _Problem) -> list[tuple[int, int, int]]:
    """Lists (first query that attends to the tile, its first key, the key after its last) for each tile."""
    keys = p.k.shape[-2] if p.start is not None else min(p.q.shape[-2] // p.groups, p.k.shape[-2])
    return [
        (begin if p.start is None else 0, begin, min(begin + p.tile, keys))
        for begin in range(0, keys, p.tile)
    ]


def _scores(p: _Problem, query: int, begin: int, end: int, *, by_key: bool = False) -> Tensor:
    """Computes the masked scores [B, K, R·G, C] of queries from `query` on and keys `begin` to `end` - 1.

    The backward pass computes them `by_key`, as the transpose of K qᵀ: a compiler would merge two equal
    products, and so keep all scores from the forward pass.
    """
    rows, columns = range(query, p.q.shape[-2] // p.groups), range(begin, end)
    q, k = p.q[..., query * p.groups :, :], p.k[..., begin:end, :]
    scores = (k @ q.transpose(-1, -2)).transpose(-1, -2) if by_key else q @ k.transpose(-1, -2)
    mask = causal_mask(rows, columns, p.start, p.segment_ids, p.q.device)
    return masked(scores.to(accumulation_dtype(p.q.dtype)) * p.q.shape[-1] ** -0.5, mask)


def _drop(p: _Problem, weights: Tensor, query: int, begin: int, end: int) -> Tensor:
    """Multiplies weights [B, K, R·G, C] by their part of the dropout mask, if there is one."""
    if p.dropout_mask is None:
        return weights
    return weights * p.dropout_mask[..., query * p.groups :, begin:end]
