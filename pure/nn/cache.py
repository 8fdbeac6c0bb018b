"""The keys and values of earlier tokens, kept so that a new token need not read the whole text again.

Shape letters: B batch, T new tokens, S places, K key-value heads, H head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pure.config import ModelConfig


class LayerCache(NamedTuple):
    """One layer's memory, laid out as attention reads it: a head's places side by side.

    Fields:
        keys, values: [B, K, S, H].
    """

    keys: Tensor
    values: Tensor


class KVCache(NamedTuple):
    """The model's memory.

    Fields:
        layers: one LayerCache per layer.
        length: [B] int64, the places of each row that are filled. A row is shortened by lowering its length.
    """

    layers: list[LayerCache]
    length: Tensor


def empty_cache(
    batch: int,
    length: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    config: ModelConfig,
) -> KVCache:
    """Makes room for `length` tokens in each of `batch` rows.

    Args:
        batch: B.
        length: S, tokens that each row can hold, at most max_position_embeddings.
        dtype: of keys and values; the params' own loses nothing.
        device: where the model is.
        config: gives layers, K and H.

    Returns:
        KVCache of zeros, every length 0.

    Raises:
        ValueError: if `length` exceeds the model's max_position_embeddings.
    """
    if length > config.max_position_embeddings:
        raise ValueError(
            f"cache: {length} tokens exceed max_position_embeddings {config.max_position_embeddings}; ask for fewer "
            "new tokens, shorten the prompt, or stretch the model with rope_scaling"
        )
    shape = (batch, config.num_key_value_heads, length, config.head_dim or 0)

    def zeros() -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    layers = [LayerCache(zeros(), zeros()) for _ in range(config.num_hidden_layers)]
    return KVCache(layers, torch.zeros(batch, dtype=torch.int64, device=device))


def append(cache: LayerCache, keys: Tensor, values: Tensor, start: Tensor | None) -> LayerCache:
    """Writes T new keys and values behind the `start` [B] that each row holds; the argument is left as it
    was.

    Args:
        cache: keys and values [B, K, S, H].
        keys, values: [B, T, K, H].
        start: [B] int64, first free place of each row; start + T <= S (not checked: that would wait for the
            device).

    Returns:
        LayerCache of the same shapes.
    """
    rows = torch.arange(keys.shape[0], device=keys.device)[:, None, None]
    heads = torch.arange(keys.shape[2], device=keys.device)[:, None]
    places = (0 if start is None else start[:, None]) + torch.arange(keys.shape[1], device=keys.device)
    index = (rows, heads, places[..., None, :])
    return LayerCache(
        cache.keys.index_put(index, keys.transpose(1, 2).to(cache.keys.dtype)),
        cache.values.index_put(index, values.transpose(1, 2).to(cache.values.dtype)),
    )
