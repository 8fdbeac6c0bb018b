"""Attention by torch's fused kernels, which implement FlashAttention.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, H head width.

Dao et al., "FlashAttention", 2022.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pure.nn.naive import causal_mask
from pure.transform.modes import is_forward_mode


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    dropout_mask: Tensor | None = None,
) -> Tensor:
    """Computes the same as `pure.nn.naive.naive` with `scaled_dot_product_attention`.

    The scores are never stored. On a CPU the kernels have no batching rule for vmap: torch loops over the
    batch and warns, so use `naive` or `flash` there.

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H].
        start, segment_ids: as in `naive`; either makes an explicit mask [B, T, S].
        dropout_mask: must be None.

    Returns:
        [B, T, N, H].

    Raises:
        ValueError: if a dropout mask is given: the fused kernels generate their own, which no key controls;
            under forward-mode differentiation, which the kernels lack (they have no second derivative
            either: torch says so in the backward pass).
    """
    if is_forward_mode():
        raise ValueError(
            "attention backend sdpa: its kernels have no forward-mode derivative; use backend='naive' or "
            "'flash', and the same one for the run that is studied"
        )
    if dropout_mask is not None:
        raise ValueError(
            "attention backend sdpa: its kernels take no dropout mask; use backend='naive' or 'flash', or "
            "attention_dropout=0"
        )
    causal = start is None and segment_ids is None
    rows, columns = range(q.shape[-3]), range(k.shape[-3])
    mask = None
    if not causal:
        mask = causal_mask(rows, columns, start, segment_ids, q.device)[..., None, :, :]
    y = F.scaled_dot_product_attention(
        q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2), mask, is_causal=causal, enable_gqa=True
    )
    return y.transpose(-3, -2)
