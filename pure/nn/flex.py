"""Attention through torch's FlexAttention, whose kernels skip whole blocks of keys that a mask forbids.

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
    keep: Tensor | None = None,
) -> Tensor:
    """Computes the same as `pure.nn.naive.naive`, where FlexAttention runs.

    That is: on a GPU; on a CPU forward only. It is meant to be compiled: torch warns where it is not.

    Args:
        q: [B, T, N, H].
        k, v: [B, S, K, H].
        start, segment_ids: as in `naive`.
        keep: must be None.

    Returns:
        [B, T, N, H].

    Raises:
        ValueError: if dropout factors are given; on a CPU, if a gradient or a torch.func transform is asked
            for.
    """
    if keep is not None:
        raise ValueError(
            "attention backend flex: it takes no dropout factors; use backend='naive' or 'flash', or no dropout"
        )
    wants_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if not q.is_cuda and (wants_grad or torch._C._are_functorch_transforms_active()):
        raise ValueError(
            "attention backend flex: on a CPU FlexAttention has no backward and no torch.func; use backend='auto', or "
            "call it under torch.no_grad()"
        )

    def visible(
        batch: Tensor, head: Tensor, row: Tensor, column: Tensor
    ) -> Tensor:  # torch 2.11 takes no partial here
        return _visible(batch, row, column, start=start, segment_ids=segment_ids)

    rows = None if start is None and segment_ids is None else q.shape[0]
    blocks = create_block_mask(visible, rows, None, q.shape[-3], k.shape[-3], device=q.device)
    q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
    y: Tensor = flex_attention(q, k, v, block_mask=blocks, enable_gqa=True)
    return y.transpose(-3, -2)


def _visible(
    batch: Tensor, row: Tensor, column: Tensor, *, start: Tensor | None, segment_ids: Tensor | None
) -> Tensor:
    """Whether one query sees one key, all indices []: `pure.nn.naive.allowed` as FlexAttention wants it."""
    seen = column <= (row if start is None else row + start[batch])
    return seen if segment_ids is None else seen & (segment_ids[batch, row] == segment_ids[batch, column])
