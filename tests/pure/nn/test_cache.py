"""`pure.nn.cache`: the KV cache."""

from __future__ import annotations

import pytest
import torch

from pure.config import ModelConfig
from pure.nn.cache import LayerCache, append, empty_cache

CONFIG = ModelConfig(
    hidden_size=12,
    num_attention_heads=3,
    num_key_value_heads=3,
    num_hidden_layers=2,
    max_position_embeddings=9,
)


def test_an_empty_cache_has_room_and_no_tokens() -> None:
    cache = empty_cache(2, 5, torch.bfloat16, config=CONFIG)
    assert len(cache.layers) == 2
    assert cache.layers[0].keys.shape == cache.layers[1].values.shape == (2, 3, 5, 4)
    assert cache.layers[0].keys.dtype == torch.bfloat16
    assert cache.length.tolist() == [0, 0]


def test_no_two_tensors_of_an_empty_cache_share_storage() -> None:
    cache = empty_cache(2, 5, config=CONFIG)
    leaves = [x for layer in cache.layers for x in layer]
    assert len({x.untyped_storage().data_ptr() for x in leaves}) == len(leaves)


def test_appended_keys_and_values_have_the_dtype_of_the_cache() -> None:
    cache = empty_cache(1, 5, torch.bfloat16, config=CONFIG).layers[0]
    third = torch.full((1, 1, 3, 4), 1 / 3)
    keys, values = append(cache, third, third, torch.tensor([2]))
    assert keys.dtype == values.dtype == torch.bfloat16
    assert torch.equal(keys[0, :, 2], third[0, 0].bfloat16())


@pytest.mark.parametrize("new", [1, 3])
def test_append_writes_after_the_filled_positions(new: int) -> None:
    generator = torch.Generator().manual_seed(0)
    old = LayerCache(*(torch.randn(2, 3, 5, 4, generator=generator) for _ in range(2)))
    keys, values = (torch.randn(2, new, 3, 4, generator=generator) for _ in range(2))
    start = torch.tensor([2, 0])
    new_cache = append(old, keys, values, start)
    for before, after, written in zip(old, new_cache, (keys, values), strict=True):
        expected = before.clone()
        for row in range(2):
            for position in range(new):
                expected[row, :, int(start[row]) + position] = written[row, position]
        assert torch.equal(after, expected)


def test_append_does_not_change_its_argument() -> None:
    old = LayerCache(torch.zeros(1, 3, 5, 4), torch.zeros(1, 3, 5, 4))
    append(old, torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), None)
    assert not old.keys.any()
    assert not old.values.any()


def test_a_cache_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="10 tokens exceed max_position_embeddings 9"):
        empty_cache(1, 10, config=CONFIG)
