"""`pure.generation.slots`: rows of one batch that began at different times have the logits of a forward pass."""

from __future__ import annotations

import torch

from pure import random, tree
from pure.config import ModelConfig
from pure.generation.slots import Slots, decode_slots, empty_slots, give_away, lengthen_cache
from pure.nn.transformer import transformer

CONFIG = ModelConfig(
    vocab_size=20,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.5,
)


def test_rows_that_begin_at_different_steps_have_the_logits_of_a_forward_pass() -> None:
    model = transformer(CONFIG)
    params = model.init(random.key(0))
    tokens = random.randint(random.key(1), (2, 6), 0, 20).long()
    expected = model.forward(params, tokens)
    slots = empty_slots(model, 3, 8, torch.float32)
    for i in range(6):
        last = torch.tensor([int(tokens[0, i]), 7, int(tokens[1, max(0, i - 2)])])
        length = torch.tensor([i, 0, max(0, i - 2)])
        slots = decode_slots(
            Slots(slots.cache._replace(length=length), last, slots.logits), params, model=model
        )
        torch.testing.assert_close(slots.logits[0], expected[0, i])
        if i >= 2:
            torch.testing.assert_close(slots.logits[2], expected[1, i - 2])
        assert slots.cache.length.tolist() == (length + 1).tolist()


def test_slots_that_were_given_away_have_the_same_bits_in_the_same_storage() -> None:
    model = transformer(CONFIG)
    params = model.init(random.key(0))
    kept = Slots(*empty_slots(model, 3, 8, torch.float32)[:1], torch.tensor([1, 2, 3]), torch.zeros(3, 20))
    given = give_away(tree.map(torch.clone, kept))
    places = [layer.keys.data_ptr() for layer in given.cache.layers]
    for _ in range(3):
        before = tree.map(torch.clone, kept.cache)
        after = decode_slots(kept, params, model=model)
        assert all(map(torch.equal, tree.leaves(kept.cache), tree.leaves(before)))
        kept, given = after, decode_slots(given, params, model=model)
        assert all(map(torch.equal, tree.leaves(given), tree.leaves(kept)))
        assert [layer.keys.data_ptr() for layer in given.cache.layers] == places
    assert type(given.logits) is torch.Tensor


def test_a_longer_cache_has_the_same_numbers_and_then_zeros() -> None:
    model = transformer(CONFIG)
    cache = tree.map(lambda x: torch.ones_like(x), model.cache(1, 4))
    longer = lengthen_cache(cache, model.cache(1, 6, torch.float32, "meta"))
    for layer in longer.layers:
        assert layer.keys.shape == (1, 1, 6, 4)
        assert bool((layer.keys[:, :, :4] == 1).all())
        assert bool((layer.values[:, :, 4:] == 0).all())
    assert longer.length.tolist() == [1]
