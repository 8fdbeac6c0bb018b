"""`pure.nn.attention`: the attention layer compared with its formula in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.attention import attention, attention_spec
from pure.nn.position import rotate, rotation
from pure.nn.transformer import init
from pure.types import Tree
from tests.pure.nn import oracle

SIZES = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}


def random_params(config: ModelConfig) -> Tree:
    """Draw all parameters from a normal distribution, also biases and scales, which would be 0 and 1."""
    spec = tree.map(lambda s: s.__class__(shape=s.shape, std=0.5), attention_spec(config))
    return init(random.key(0), spec=spec)


def naive_attention(params: Tree, x: Tensor, config: ModelConfig, **extras: Any) -> Tensor:
    """Compute the layer in float64: projections by einsum, softmax by the oracle."""
    p = tree.cast(params, torch.float64)
    q, k, v = (torch.einsum("btd,od->bto", x, p[n]) + p.get(f"{n}_bias", 0) for n in "qkv")
    q, k, v = (y.unflatten(-1, (-1, 4)) for y in (q, k, v))
    if config.qk_norm:
        q, k = (
            y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * p[n]
            for y, n in ((q, "q_norm"), (k, "k_norm"))
        )
    angles = rotation(torch.arange(x.shape[1])[None], config=config)
    y = oracle.attention(rotate(q, angles), rotate(k, angles), v, **extras)
    return torch.einsum("bto,do->btd", y.flatten(2), p["o"]) + p.get("o_bias", 0)


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("bias", [True, False, "qkv"])
def test_attention_equals_a_naive_float64_layer(bias: bool | str, qk_norm: bool) -> None:
    config = ModelConfig(**SIZES, attention_bias=bias, qk_norm=qk_norm)
    params, x = random_params(config), random.normal(random.key(1), (2, 9, 24))
    segments = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2]).expand(2, 9)
    dropout_mask = random.bernoulli(random.key(2), 0.5, (2, 4, 9, 9)) * 2.0
    angles = rotation(torch.arange(9)[None], config=config)
    ours, cache = attention(params, x, angles, config=config, segment_ids=segments, dropout_mask=dropout_mask)
    assert cache is None
    expected = naive_attention(params, x.double(), config, segment_ids=segments, dropout_mask=dropout_mask)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_backend_is_chosen_by_its_name() -> None:
    config = ModelConfig(**SIZES)
    with pytest.raises(ValueError, match="unknown"):
        attention(random_params(config), torch.ones(1, 2, 24), None, config=config, backend="unknown")


def test_grouped_query_attention_equals_multi_head_with_repeated_keys_and_values() -> None:
    grouped, full = ModelConfig(**SIZES), ModelConfig(**{**SIZES, "num_key_value_heads": 4})
    params, x = random_params(grouped), random.normal(random.key(1), (2, 9, 24))
    repeated = {n: params[n].unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for n in "kv"}
    grouped_output, _ = attention(params, x, None, config=grouped)
    full_output, _ = attention({**params, **repeated}, x, None, config=full)
    torch.testing.assert_close(grouped_output, full_output)


@pytest.mark.parametrize(("bias", "biased"), [(False, ""), (True, "qkvo"), ("qkv", "qkv")])
def test_the_spec_has_the_biases_and_norms_of_the_configuration(bias: bool | str, biased: str) -> None:
    spec = attention_spec(ModelConfig(**SIZES, attention_bias=bias, qk_norm=True))
    assert {name: spec[name].shape for name in "qkvo"} == {
        "q": (16, 24),
        "k": (8, 24),
        "v": (8, 24),
        "o": (24, 16),
    }
    assert {name for name in spec if name.endswith("bias")} == {f"{name}_bias" for name in biased}
    assert spec["q_norm"].shape == spec["k_norm"].shape == (4,)
    assert all(spec[f"{name}_bias"].init == "zeros" for name in biased)


def test_a_joint_matrix_of_queries_keys_and_values_gives_the_same() -> None:
    config = ModelConfig(**SIZES, attention_bias=True)
    params, x = random_params(config), random.normal(random.key(1), (2, 9, 24))
    joint = {
        "q_k_v": torch.cat([params[n] for n in "qkv"]),
        "q_k_v_bias": torch.cat([params[f"{n}_bias"] for n in "qkv"]),
    }
    rest = {name: params[name] for name in ("o", "o_bias")}
    found, _ = attention({**joint, **rest}, x, None, config=config)
    torch.testing.assert_close(found, attention(params, x, None, config=config)[0])
