"""Prepared params: another order of the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.packed import Packed
from pure.nn.prepare import prepare
from pure.nn.transformer import transformer
from pure.types import Model, Tree

CONFIG = ModelConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.3,
)  # fmt: skip
VARIANTS = {
    "llama": CONFIG,
    "untied": replace(CONFIG, tie_word_embeddings=False),
    "biases": replace(CONFIG, attention_bias="qkv", mlp_bias=True),
    "qwen3": replace(CONFIG, qk_norm=True, head_dim=8),
    "gpt2": replace(
        CONFIG, use_swiglu=False, use_rms_norm=False, use_rope=False, hidden_act="gelu", mlp_bias=True
    ),
}
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def decode_in_two(model: Model, params: Tree, dtype: torch.dtype) -> torch.Tensor:
    with torch.no_grad():
        first, cache = model.decode(params, TOKENS[:, :3], model.cache(2, 4, dtype))
        return torch.cat([first, model.decode(params, TOKENS[:, 3:], cache)[0]], 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_decode_reads_the_same_from_prepared_params(name: str) -> None:
    model = transformer(VARIANTS[name])
    params = tree.map(lambda x: x + 0.05, model.init(random.key(0)))
    prepared = model.prepare(params)
    assert "head" in prepared
    assert all(
        "q_k_v" in layer["attention"] and "q" not in layer["attention"] for layer in prepared["layers"]
    )
    torch.testing.assert_close(
        decode_in_two(model, prepared, torch.float32), decode_in_two(model, params, torch.float32)
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_in_bfloat16_prepared_params_are_as_near_to_float64(name: str) -> None:
    model = transformer(VARIANTS[name])
    params = tree.cast(model.init(random.key(0)), torch.bfloat16)
    exact = decode_in_two(model, tree.cast(params, torch.float64), torch.float64)
    plain, prepared = (
        decode_in_two(model, p, torch.bfloat16).double() for p in (params, model.prepare(params))
    )
    assert (prepared - exact).norm() <= 1.2 * (plain - exact).norm()


def test_params_are_left_as_they_were_and_preparing_twice_is_preparing_once() -> None:
    params = tree.cast(transformer(CONFIG).init(random.key(0)), torch.bfloat16)
    before = tree.clone(params)
    once = prepare(params, config=CONFIG)
    assert tree.paths(params) == tree.paths(before)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(params), tree.leaves(before), strict=True))
    twice = prepare(once, config=CONFIG)
    assert tree.paths(twice) == tree.paths(once)
    assert all(a is b for a, b in zip(tree.leaves(once["layers"]), tree.leaves(twice["layers"]), strict=True))


def test_nodes_in_the_place_of_a_tensor_stay() -> None:
    params = transformer(CONFIG).init(random.key(0))
    node = Packed(params["layers"][0]["attention"]["q"])
    params["layers"][0]["attention"]["q"] = node
    prepared = prepare(params, config=CONFIG)
    assert prepared["layers"][0]["attention"]["q"] is node
    assert {"k", "v"} <= prepared["layers"][0]["attention"].keys()
    assert "gate_up" in prepared["layers"][0]["feedforward"]


@pytest.mark.parametrize("name", VARIANTS)
def test_for_one_row_nothing_is_packed_and_the_compiled_step_gives_the_same(name: str) -> None:
    model = transformer(VARIANTS[name])
    for dtype, near in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        params = tree.cast(tree.map(lambda x: x + 0.05, model.init(random.key(0))), dtype)
        prepared = model.prepare(params, rows=1)
        assert all(isinstance(x, torch.Tensor) for x in prepared["layers"][0]["attention"].values())
        with torch.no_grad():
            _, cache = model.decode(params, TOKENS[:1, :3], model.cache(1, 4, dtype))
            expected = model.decode(params, TOKENS[:1, 3:], cache)[0]
            step = torch.compile(model.decode, backend="aot_eager", dynamic=False)
            found = step(prepared, TOKENS[:1, 3:], cache)[0]
        torch.testing.assert_close(found, expected, rtol=near, atol=near)
