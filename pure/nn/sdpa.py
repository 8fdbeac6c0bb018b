"""Attention through torch's fused kernels.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, H head width.

Dao et al., "FlashAttention", 2022, is what the kernels compute.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pure.nn.naive import allowed


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Computes the same as `pure.nn.naive.naive` with `scaled_dot_product_attention`, never holding the
    scores.

    Under vmap on a CPU torch has no batching rule for its kernels: it loops over them, and warns. `naive` and
    `flash` are quick there.

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H].
        start, segment_ids: as in `naive`; either makes an explicit mask [B, T, S].
        keep: must be None.

    Returns:
        [B, T, N, H].

    Raises:
        ValueError: if dropout factors are given: the fused kernels draw their own, which no key controls.
    """
    if keep is not None:
        raise ValueError(
            "attention backend sdpa: its kernels take no dropout factors; use backend='naive' or 'flash', or "
            "attention_dropout=0"
        )
    causal = start is None and segment_ids is None
    rows, columns = range(q.shape[-3]), range(k.shape[-3])
    mask = None if causal else allowed(rows, columns, start, segment_ids, q.device)[..., None, :, :]
    y = F.scaled_dot_product_attention(
        q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2), mask, is_causal=causal, enable_gqa=True
    )
    return y.transpose(-3, -2)
