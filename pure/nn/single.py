"""Attention of one new token to the cached tokens: the shape of every decoding step.

Shape letters: B batch, T = 1 query, S keys, N query heads, K key-value heads, G = N/K query heads per key
head, H head width.

Vaswani et al., "Attention Is All You Need", 2017; Ainslie et al., "GQA", 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.nn.naive import accumulation_dtype


def single(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    dropout_mask: Tensor | None = None,
) -> Tensor:
    """Computes attention for one query per row, by elementwise products and sums.

    With one query a matrix product reuses nothing: every key is read once. A compiler fuses this code into
    a single loop over the keys and one over the values; a library product would first copy both into its own
    layout. (Eager code would store S times H numbers per head: use `naive` there.)

        y = Σ_s softmax_s(q · k_s / √H) v_s,     s <= start

    Args:
        q: [B, T, N, H], T = 1.
        k, v: [B, S, K, H]; query head n reads key head n // G.
        start: [B] int64 index of the query among the keys, 0 <= start < S; None is 0.
        segment_ids: must be None: a cache holds one segment per row.
        dropout_mask: must be None: decoding has no dropout.

    Returns:
        [B, T, N, H], dtype of q; sums and softmax are computed in float32 (float64 for float64).

    Steps:
        1. Refuse more queries than one, segments and dropout.
        2. Convert everything to `accumulation_dtype(q.dtype)`; give the keys and values an axis for the G
            query heads, [B, K, 1, S, H], the query one for the keys, [B, K, G, 1, H], and divide it by √H.
        3. Multiply and sum over H: scores [B, K, G, S].
        4. Set the scores of positions after `start` to `torch.finfo(dtype).min`; take the softmax over S.
        5. Multiply the values by the weights and sum over S, [B, K, G, H]; join the heads, add the axis of
            the one query, and convert to the dtype of q: [B, 1, N, H].

    Edge cases: positions after `start` are not filled yet; whatever they hold (finite) has no effect.

    Raises:
        ValueError: for more queries than one, or with segment_ids or dropout_mask.

    Example:
        The query is at the second of three positions; the third is not filled yet.

        >>> k, v = torch.zeros(1, 3, 1, 1), torch.tensor([2.0, 4.0, 9.0]).reshape(1, 3, 1, 1)
        >>> single(torch.ones(1, 1, 1, 1), k, v, start=torch.tensor([1])).item()
        3.0

    Source: Vaswani et al. 2017, equation 1.
    """
    # 1. One query, no segments, no dropout.
    if q.shape[-3] != 1 or segment_ids is not None or dropout_mask is not None:
        raise ValueError(
            f"attention backend single: expected one query, no segment_ids and no dropout_mask, got q "
            f"{list(q.shape)} [B, T, N, H]; use backend='naive' for anything else"
        )
    # 2. Keys and values [B, K, 1, S, H], query [B, K, G, 1, H].
    dtype = accumulation_dtype(q.dtype)
    k = k.transpose(-3, -2)[..., None, :, :].to(dtype)
    v = v.transpose(-3, -2)[..., None, :, :].to(dtype)
    query = q.squeeze(-3).unflatten(-2, (k.shape[-4], -1))[..., None, :].to(dtype) * q.shape[-1] ** -0.5
    # 3. Scores [B, K, G, S].
    scores = (query * k).sum(-1)
    # 4. Weights of the filled positions, [B, K, G, S].
    position = 0 if start is None else start[..., None, None, None]
    filled = torch.arange(k.shape[-2], device=q.device) <= position
    weights = torch.where(filled, scores, torch.finfo(dtype).min).softmax(-1)
    # 5. [B, K, G, H] -> [B, 1, N, H], dtype of q.
    return (weights[..., None] * v).sum(-2).flatten(-3, -2).unsqueeze(-3).to(q.dtype)
