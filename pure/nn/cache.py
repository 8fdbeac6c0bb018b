"""The KV cache: keys and values of earlier tokens, so that decoding computes only the new token.

Shape letters: B batch, T new tokens, S positions, K key-value heads, H head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pure.config import ModelConfig
from pure.parallel.group import Group


class LayerCache(NamedTuple):
    """Keys and values of one layer, laid out as attention reads them: the positions of a head are contiguous.

    Fields:
        keys, values: [B, K, S, H].
    """

    keys: Tensor
    values: Tensor


class KVCache(NamedTuple):
    """Keys and values of all layers.

    Fields:
        layers: one LayerCache per layer.
        length: [B] int64, filled positions of each row. Lowering it truncates the row.
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
    tensor: Group | None = None,
) -> KVCache:
    """Allocates a cache for `length` tokens in each of `batch` rows.

    Args:
        batch: B.
        length: S, capacity of each row in tokens, at most max_position_embeddings.
        dtype: of keys and values; with the dtype of the params nothing is rounded.
        device: that of the params.
        config: gives the number of layers, K and H.
        tensor: processes that share the heads, each with K/n of them; None: this one has all.

    Returns:
        KVCache of zeros, every length 0.

    Raises:
        ValueError: if `length` exceeds the model's max_position_embeddings.
    """
    if length > config.max_position_embeddings:
        raise ValueError(
            f"cache: {length} tokens exceed max_position_embeddings {config.max_position_embeddings}; "
            "generate fewer tokens, shorten the prompt, or extend the context with rope_scaling"
        )
    shape = (
        batch,
        config.num_key_value_heads // (1 if tensor is None else tensor.size),
        length,
        config.head_dim or 0,
    )  # head_dim is set: 0 is for mypy

    def zeros() -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    layers = [LayerCache(zeros(), zeros()) for _ in range(config.num_hidden_layers)]
    return KVCache(layers, torch.zeros(batch, dtype=torch.int64, device=device))


def append(cache: LayerCache, keys: Tensor, values: Tensor, start: Tensor | None) -> LayerCache:
    """Returns a copy of the cache with T new keys and values, written from position `start` of each row on.

    Rows have different lengths, so each has its own first free position. The old cache is not changed, so a
    caller may decode from it twice.

        keys'[b, k, start[b] + t] = keys[b, t, k],     values likewise; everything else as in the cache

    Args:
        cache: keys and values [B, K, S, H].
        keys, values: [B, T, K, H], any float dtype.
        start: [B] int64, first free position of each row; start + T <= S (not checked: that would wait for
            the device). None is 0.

    Returns:
        LayerCache of the same shapes and dtypes as the old one.

    Steps:
        1. Make three index tensors that broadcast to [B, K, T]: rows [B, 1, 1], key heads [K, 1], and
            positions `start` + t, [B, 1, T] or [1, T].
        2. Bring the new keys and values to the cache's layout and dtype: [B, K, T, H].
        3. Write them at these indices without changing the old tensors (`Tensor.index_put`).

    Edge cases: positions that were filled are overwritten, which is how new tokens replace the padding of a
    prompt.

    Example:
        A row of three positions; the new token is written at position 1.

        >>> zeros = torch.zeros(1, 1, 3, 1)
        >>> new = torch.tensor([[[[5.0]]]])
        >>> append(LayerCache(zeros, zeros), new, new, torch.tensor([1])).keys.flatten()
        tensor([0., 5., 0.])

    Source: Shazeer, "Fast Transformer Decoding", 2019, the incremental form of attention.
    """
    # 1. Indices: rows [B, 1, 1], heads [K, 1], positions [B, 1, T] or [1, T].
    rows = torch.arange(keys.shape[0], device=keys.device)[:, None, None]
    heads = torch.arange(keys.shape[2], device=keys.device)[:, None]
    positions = (0 if start is None else start[:, None]) + torch.arange(keys.shape[1], device=keys.device)
    index = (rows, heads, positions[..., None, :])
    # 2. The cache's layout and dtype, [B, K, T, H].
    new_keys = keys.transpose(1, 2).to(cache.keys.dtype)
    new_values = values.transpose(1, 2).to(cache.values.dtype)
    # 3. New tensors [B, K, S, H].
    return LayerCache(
        cache.keys.index_put(index, new_keys),
        cache.values.index_put(index, new_values),
    )
