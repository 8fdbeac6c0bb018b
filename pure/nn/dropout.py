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

    Every example has a key of its own, so its masks do not depend on the other rows of the batch, nor on how
    a batch was cut. Dividing by 1 - p keeps the mean of an activation as it is without dropout.

        mask = [u >= p] / (1 - p),     u uniform in [0, 1), p the rate

    Args:
        key: [2] or [B, 2] uint32, for the whole batch or one per example; None: no dropout.
        rows: their shape (B, T).
        dtype: of the masks.
        config: rates attention_dropout and hidden_dropout; sizes num_hidden_layers L, num_attention_heads N,
            hidden_size D.
        tensor: processes that share the heads: each takes the masks of its own; None: this one has all.

    Returns:
        One DropoutMasks, or None, for each layer: weights [B, N, T, T], attention and feedforward [B, T, D];
        None for a field whose rate is 0.

    Steps:
        1. Without a key, or with both rates 0, return None for each layer.
        2. One key [2] becomes keys [B, 2]: `random.fold_in(key, b)` for each example b, under
            `torch.func.vmap`.
        3. List the three sites of a layer, in the order of the fields of DropoutMasks: rate, and shape in
            one example: (N, T, T) with attention_dropout, (T, D) twice with hidden_dropout.
        4. Draw once for each key, under `torch.func.vmap`: `random.uniform(key, (L, total))`, [B, L, total],
            where total is the number of elements of the sites whose rate is not 0, a plain int (shapes are
            static when compiling).
        5. Split the numbers among these sites, in this order. Where u >= rate the factor is 1/(1 - rate),
            elsewhere 0: a bool [B, L, ...] converted to `dtype`, then divided. With `tensor`, the masks of
            the weights are those of its heads: part `tensor.rank` of `tensor.size` along the heads.
        6. Take the layers apart, axis 1, and make one DropoutMasks of each layer's three.

    Edge cases: a site with rate 0 draws nothing, so the other sites' numbers move up.

    Example:
        At rate 1/2 an element is dropped, or doubled.

        >>> config = ModelConfig(hidden_dropout=0.5)
        >>> masks = dropout_masks(random.key(0), (2, 3), torch.float32, config)
        >>> len(masks), masks[0].weights, masks[0].attention.unique()
        (6, None, tensor([0., 2.]))

    Source: Srivastava et al. 2014, section 4, with the division in training instead of a product in testing.
    """
    layers, (batch, length), width = config.num_hidden_layers, rows, config.hidden_size
    # 1. No dropout: None for each layer.
    if key is None or not (config.attention_dropout or config.hidden_dropout):
        return [None] * layers
    # 2. A key for each example, [B, 2].
    if key.ndim == 1:
        key = torch.func.vmap(random.fold_in, (None, 0))(key, torch.arange(batch, device=key.device))
    # 3. The sites, in the order of the fields of DropoutMasks: rate, shape in one layer of one example.
    sites: tuple[tuple[float, tuple[int, ...]], ...] = (
        (config.attention_dropout, (config.num_attention_heads, length, length)),
        (config.hidden_dropout, (length, width)),
        (config.hidden_dropout, (length, width)),
    )
    # 4. One draw for each example: [B, L, total] numbers of the sites with a rate.
    sizes = [torch.Size(shape).numel() for rate, shape in sites if rate]
    uniform = torch.func.vmap(lambda row_key: random.uniform(row_key, (layers, sum(sizes))))(key)
    # 5. Each site's part, as factors 0 or 1/(1 - rate), [B, L, ...].
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
    # 6. The three masks of each layer.
    return [DropoutMasks(*layer_masks) for layer_masks in zip(*masks, strict=True)]
