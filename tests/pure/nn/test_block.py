"""`pure.nn.block`: a transformer layer compared with its formula."""

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


def test_a_block_is_pre_norm_with_residuals_and_dropout() -> None:
    params, x = init(random.key(0), spec=block_spec(CONFIG)), random.normal(random.key(1), (2, 5, 16))
    attention_dropout, feedforward_dropout = (
        random.bernoulli(random.key(i), 0.5, x.shape) * 2.0 for i in (2, 3)
    )
    dropout = DropoutMasks(None, attention_dropout, feedforward_dropout)
    output, cache = block(params, x, None, None, dropout, None, None, config=CONFIG, backend="auto")
    attended, _ = attention(
        params["attention"], norm(params["attention_norm"], x, config=CONFIG), None, config=CONFIG
    )
    middle = x + attention_dropout * attended
    normed = norm(params["feedforward_norm"], middle, config=CONFIG)
    expected = middle + feedforward_dropout * feedforward(params["feedforward"], normed, config=CONFIG)
    torch.testing.assert_close(output, expected)
    assert cache is None


def test_a_block_of_zeros_is_the_identity() -> None:
    params = tree.map(lambda s: torch.zeros(s.shape), block_spec(CONFIG))
    x = random.normal(random.key(1), (2, 5, 16))
    output, _ = block(params, x, None, None, None, None, None, config=CONFIG, backend="auto")
    assert torch.equal(output, x)


def test_output_projections_have_a_smaller_initial_deviation() -> None:
    """Divided by √(2 layers) = 4 for the two matrices whose output is added to the residual stream."""
    spec = block_spec(ModelConfig(num_hidden_layers=8, initializer_range=0.1))
    deviations = {}
    for path, leaf in zip(tree.paths(spec), tree.leaves(spec), strict=True):
        if leaf.init == "normal":
            deviations[path] = leaf.std
    projections = {"attention/o", "feedforward/down"}
    assert {path for path, std in deviations.items() if std == 0.1 / 4} == projections
    assert {std for path, std in deviations.items() if path not in projections} == {0.1}
