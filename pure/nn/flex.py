"""Attention by torch's FlexAttention, whose kernels skip blocks of keys that are masked completely.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, H head width.

Dong et al., "Flex Attention", 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    dropout_mask: Tensor | None = None,
) -> Tensor:
    """Computes the same as `pure.nn.naive.naive`, on a GPU; on a CPU the forward pass only.

    It is meant to be called in compiled code: elsewhere torch warns, and stores all scores.

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H].
        start, segment_ids: as in `naive`.
        dropout_mask: must be None.

    Returns:
        [B, T, N, H].

    Raises:
        ValueError: if a dropout mask is given; on a CPU, for a gradient or a torch.func transform.
    """
    if dropout_mask is not None:
        raise ValueError(
            "attention backend flex takes no dropout mask; use backend='naive' or 'flash', or "
            "attention_dropout=0"
        )
    wants_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if not q.is_cuda and (wants_grad or torch._C._are_functorch_transforms_active()):
        raise ValueError(
            "attention backend flex: on a CPU FlexAttention has no backward and no torch.func; "
            "use backend='auto', or call it under torch.no_grad()"
        )

    # A function, because torch 2.11 accepts no partial here.
    def mask(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return _mask(batch, row, column, start=start, segment_ids=segment_ids)

    batch_size = None if start is None and segment_ids is None else q.shape[0]  # None: one mask for all rows
    blocks = create_block_mask(mask, batch_size, None, q.shape[-3], k.shape[-3], device=q.device)
    q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
    y: Tensor = flex_attention(q, k, v, block_mask=blocks, enable_gqa=True)
    return y.transpose(-3, -2)


def _mask(
    batch: Tensor, row: Tensor, column: Tensor, *, start: Tensor | None, segment_ids: Tensor | None
) -> Tensor:
    """Computes `pure.nn.naive.causal_mask` for one query and one key; all indices are []."""
    place = row if start is None else row + start[batch]
    causal = column <= place
    if segment_ids is None:
        return causal
    return causal & (segment_ids[batch, place] == segment_ids[batch, column])
