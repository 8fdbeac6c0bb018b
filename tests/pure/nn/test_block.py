"""One layer: the order of its parts."""

from __future__ import annotations

import torch

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.attention import attention
from pure.nn.block import DropoutMasks, block, block_spec
from pure.nn.feedforward import feedforward
from pure.nn.norm import norm
from pure.nn.transformer import init

CONFIG = ModelConfig(hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2)


def test_norms_stand_before_and_the_stream_runs_past() -> None:
    params, x = init(random.key(0), spec=block_spec(CONFIG)), random.normal(random.key(1), (2, 5, 16))
    first, second = (random.bernoulli(random.key(i), 0.5, x.shape) * 2.0 for i in (2, 3))
    ours, cache = block(
        params, x, None, None, DropoutMasks(None, first, second), None, None, config=CONFIG, backend="auto"
    )
    attended, _ = attention(
        params["attention"], norm(params["attention_norm"], x, config=CONFIG), None, config=CONFIG
    )
    middle = x + first * attended
    inner = norm(params["feedforward_norm"], middle, config=CONFIG)
    expected = middle + second * feedforward(params["feedforward"], inner, config=CONFIG)
    torch.testing.assert_close(ours, expected)
    assert cache is None


def test_a_layer_of_zeros_passes_the_stream_on() -> None:
    params = tree.map(lambda s: torch.zeros(s.shape), block_spec(CONFIG))
    x = random.normal(random.key(1), (2, 5, 16))
    ours, _ = block(params, x, None, None, None, None, None, config=CONFIG, backend="auto")
    assert torch.equal(ours, x)


def test_the_two_that_write_into_the_stream_start_smaller() -> None:
    spec = block_spec(ModelConfig(num_hidden_layers=8, initializer_range=0.1))
    found = {
        path: s.std for path, s in zip(tree.paths(spec), tree.leaves(spec), strict=True) if s.init == "normal"
    }
    assert {path for path, std in found.items() if std == 0.1 / 4} == {"attention/o", "feedforward/down"}
    assert {std for path, std in found.items() if path not in ("attention/o", "feedforward/down")} == {0.1}
