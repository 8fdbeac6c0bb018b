"""Ways to compute softmax(QKᵀ/√H) V under a causal mask. All are equal; they differ in speed and memory.

A query at index `start + i` sees the keys 0 .. start + i of its own segment. Every backend has the same signature:
`(q, k, v, *, start, segment_ids, keep) -> y`.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, G = N/K, H head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def choose(name: str, q: Tensor, k: Tensor, keep: Tensor | None) -> Callable:
    """Returns the backend of that name; "auto" takes the one measured fastest for the device and length.

    On a CPU plain batched products win, forward and backward, until the score matrix no longer fits the caches; SDPA
    has no batching rule there, so anything under vmap takes them too. On a GPU SDPA wins throughout.

    Raises:
        ValueError: for an unknown name.
    """
    table = {"naive": naive, "sdpa": sdpa}
    if name == "auto":
        return sdpa if q.is_cuda and keep is None else naive
    if name not in table:
        raise ValueError(f"attention backend: expected one of auto, {', '.join(table)}, got {name!r}")
    return table[name]


def allowed(q: Tensor, k: Tensor, start: Tensor | None, segment_ids: Tensor | None) -> Tensor:
    """Says which key each query may see.

    Args:
        q: [B, T, N, H], k: [B, S, K, H]; only their lengths and device are read.
        start: [B] index of the first query among the keys; None is 0.
        segment_ids: [B, T] (then S = T) or None.

    Returns:
        bool [B or 1, T, S], True where the query may look.

    Example:
        >>> allowed(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), None, None).int()
        tensor([[[1, 0],
                 [1, 1]]], dtype=torch.int32)
    """
    query = torch.arange(q.shape[-3], device=q.device)
    key = torch.arange(k.shape[-3], device=q.device)
    index = query[None] if start is None else start[:, None] + query
    mask = key <= index[..., None]
    if segment_ids is not None:
        mask = mask & (segment_ids[..., :, None] == segment_ids[..., None, :])
    return mask


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Computes attention as it is written in the paper, holding the whole score matrix.

        y = softmax(q Kᵀ / √H + mask) V

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H]; query head n reads key head n // G.
        start: [B] index of the first query among the keys, or None for 0.
        segment_ids: [B, T] or None.
        keep: [B, N, T, S] dropout factors or None.

    Returns:
        [B, T, N, H], dtype of q; the softmax is taken in float32.

    Steps:
        1. Lay the G query heads of a key head side by side: one batched product serves them all.
        2. Scores, masked with the most negative finite number.
        3. Softmax in float32, then dropout.
        4. Mix the values.

    Source: Vaswani et al. 2017, equation 1.
    """
    # 1. [B, K, G·T, H] against [B, K, S, H].
    groups, length = q.shape[-2] // k.shape[-2], q.shape[-3]
    heads = q.unflatten(-2, (-1, groups)).movedim(-4, -2).flatten(-3, -2)
    # 2. [B, K, G, T, S]
    scores = (heads * q.shape[-1] ** -0.5) @ k.movedim(-3, -1)
    scores = scores.unflatten(-2, (groups, length)).float()
    mask = allowed(q, k, start, segment_ids)[..., None, None, :, :]
    scores = torch.where(mask, scores, torch.finfo(torch.float32).min)
    # 3. Weights.
    weights = scores.softmax(-1)
    if keep is not None:
        weights = weights * keep.unflatten(-3, (-1, groups))
    # 4. [B, K, G·T, H] -> [B, T, N, H]
    mixed = weights.to(v.dtype).flatten(-3, -2) @ v.transpose(-3, -2)
    return mixed.unflatten(-2, (groups, length)).movedim(-2, -4).flatten(-3, -2)


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Computes the same through torch's fused kernels; arguments and result as `naive`.

    Raises:
        ValueError: if dropout factors are given: the fused kernels draw their own, which no key controls.
    """
    if keep is not None:
        raise ValueError("attention backend sdpa: no dropout from keys; use backend='naive' or attention_dropout=0")
    causal = start is None and segment_ids is None
    mask = None if causal else allowed(q, k, start, segment_ids)[..., None, :, :]
    y = F.scaled_dot_product_attention(
        q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2), mask, is_causal=causal, enable_gqa=True
    )
    return y.transpose(-3, -2)
