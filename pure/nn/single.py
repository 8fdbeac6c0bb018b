"""Attention of one new token to all that are remembered: the shape of every step of generation.

Shape letters: B batch, T = 1 query, S keys, N query heads, K key-value heads, G = N/K query heads a key head,
H head width.

Vaswani et al., "Attention Is All You Need", 2017; Ainslie et al., "GQA", 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.nn.naive import precise


def single(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Computes attention for a single query a row, by products and sums of elements.

    With one query there is nothing for a matrix product to reuse: every key is read once. A compiler fuses
    what is written here into one pass over the keys and one over the values; library products would first
    copy both into an order of their own. (Eager code would hold S times H numbers a head: there `naive` is
    better.)

        y = Σ_s softmax_s(q · k_s / √H) v_s,     s <= start

    Args:
        q: [B, T, N, H], T = 1.
        k, v: [B, S, K, H]; query head n reads key head n // G.
        start: [B] int64 index of the query among the keys, 0 <= start < S; None is 0.
        segment_ids: must be None: remembered tokens are of one segment.
        keep: must be None: nothing is dropped when generating.

    Returns:
        [B, T, N, H], dtype of q; sums and softmax are taken in float32.

    Raises:
        ValueError: if there are more queries than one, or segment_ids or keep are given.

    Example:
        The second of three places is the query's; the third is not filled yet.

        >>> k, v = torch.zeros(1, 3, 1, 1), torch.tensor([2.0, 4.0, 9.0]).reshape(1, 3, 1, 1)
        >>> single(torch.ones(1, 1, 1, 1), k, v, start=torch.tensor([1])).item()
        3.0

    Source: Vaswani et al. 2017, equation 1.
    """
    if q.shape[-3] != 1 or segment_ids is not None or keep is not None:
        raise ValueError(
            "attention backend single: one query, no segments and no dropout; use backend='naive'"
        )
    wide = precise(q.dtype)
    k, v = k.transpose(-3, -2)[..., None, :, :].to(wide), v.transpose(-3, -2)[..., None, :, :].to(wide)
    query = q.squeeze(-3).unflatten(-2, (k.shape[-4], -1))[..., None, :].to(wide) * q.shape[-1] ** -0.5
    scores = (query * k).sum(-1)
    filled = torch.arange(k.shape[-2], device=q.device) <= (
        0 if start is None else start[..., None, None, None]
    )
    weights = torch.where(filled, scores, torch.finfo(wide).min).softmax(-1)
    return (weights[..., None] * v).sum(-2).flatten(-3, -2).unsqueeze(-3).to(q.dtype)
