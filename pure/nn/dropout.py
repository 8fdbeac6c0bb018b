"""Dropout masks of a forward pass, as a function of one key for each example.

Shape letters: B batch, T tokens, D width, N heads.

Srivastava et al., "Dropout", 2014.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pure import random
from pure.config import ModelConfig
from pure.nn.block import DropoutMasks
from pure.parallel.group import Group


def dropout_masks(
    key: Tensor | None,
    rows: tuple[int, int],
    dtype: torch.dtype,
    config: ModelConfig,
    tensor: Group | None = None,
) -> list[DropoutMasks | None]:
    """Draws the dropout masks of all layers at once: each random call adds seconds of compilation.

    Args:
        key: [2] or [B, 2] uint32, for the whole batch or one per example; None: no dropout.
        rows: their shape (B, T).
        dtype: of the masks.
        config: rates and sizes.
        tensor: processes that share the heads: each takes the masks of its own; None: this one has all.

    Returns:
        One DropoutMasks, or None, for each layer.
    """
    layers, (batch, length), width = config.num_hidden_layers, rows, config.hidden_size
    if key is None or not (config.attention_dropout or config.hidden_dropout):
        return [None] * layers
    if key.ndim == 1:
        key = torch.func.vmap(random.fold_in, (None, 0))(key, torch.arange(batch, device=key.device))
    # The fields of DropoutMasks, in order: rate, shape in one layer of one row.
    sites: tuple[tuple[float, tuple[int, ...]], ...] = (
        (config.attention_dropout, (config.num_attention_heads, length, length)),
        (config.hidden_dropout, (length, width)),
        (config.hidden_dropout, (length, width)),
    )
    sizes = [torch.Size(shape).numel() for rate, shape in sites if rate]
    uniform = torch.func.vmap(lambda row_key: random.uniform(row_key, (layers, sum(sizes))))(key)
    parts = iter(uniform.split(sizes, -1))
    masks: list[Sequence[Tensor | None]] = []  # one sequence for each site, of one mask for each layer
    for rate, shape in sites:
        if rate:
            kept = next(parts).unflatten(-1, shape).ge(rate)
            if tensor is not None and len(shape) == 3:  # [B, L, N, T, T]
                kept = kept.chunk(tensor.size, 2)[tensor.rank]
            masks.append((kept.to(dtype) / (1 - rate)).unbind(1))
        else:
            masks.append([None] * layers)
    return [DropoutMasks(*layer_masks) for layer_masks in zip(*masks, strict=True)]
