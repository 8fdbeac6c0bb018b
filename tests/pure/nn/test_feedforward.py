"""The feed-forward block against its formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ACTIVATIONS, ModelConfig
from pure.nn.feedforward import activation, feedforward, feedforward_spec
from pure.nn.transformer import init


def formula(name: str, x: Tensor) -> Tensor:
    """The activations, written out."""
    if name == "silu":
        return x / (1 + (-x).exp())
    if name == "gelu":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    if name == "gelu_tanh":
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return x.clamp(min=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_formula(name: str, gated: bool, bias: bool) -> None:
    config = ModelConfig(
        hidden_size=8, head_dim=2, intermediate_size=12, hidden_act=name, use_swiglu=gated, mlp_bias=bias
    )
    spec = feedforward_spec(config)
    drawn = tree.map(lambda s: s.__class__(shape=s.shape, std=0.5), spec)  # biases too
    params, x = init(random.key(0), spec=drawn), random.normal(random.key(1), (2, 3, 8))
    p, wide = tree.cast(params, torch.float64), x.double()

    def product(matrix: str, x: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", x, p[matrix]) + (p[f"{matrix}_bias"] if bias else 0)

    inner = (
        formula(name, product("gate", wide)) * product("up", wide)
        if gated
        else formula(name, product("up", wide))
    )
    expected = product("down", inner)
    torch.testing.assert_close(feedforward(params, x, config=config).double(), expected, rtol=1e-5, atol=1e-5)
    names = {"up", "down", *(["gate"] if gated else [])}
    assert set(params) == names | ({f"{name}_bias" for name in names} if bias else set())


def test_activations_by_name() -> None:
    x = torch.linspace(-5, 5, 41)
    for name in ACTIVATIONS:
        torch.testing.assert_close(
            activation(name)(x).double(), formula(name, x.double()), rtol=1e-5, atol=1e-6
        )
