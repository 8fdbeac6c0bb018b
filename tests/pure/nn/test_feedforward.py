"""`pure.nn.feedforward`: compared with its formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ACTIVATIONS, ModelConfig
from pure.nn.feedforward import activation, feedforward, feedforward_spec
from pure.nn.transformer import init


def naive_activation(name: str, x: Tensor) -> Tensor:
    """Compute an activation by its formula."""
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
def test_feedforward_equals_its_formula(name: str, gated: bool, bias: bool) -> None:
    config = ModelConfig(
        hidden_size=8, head_dim=2, intermediate_size=12, hidden_act=name, use_swiglu=gated, mlp_bias=bias
    )
    spec = feedforward_spec(config)
    # Biases are random too; they would be initialised with 0.
    random_spec = tree.map(lambda s: s.__class__(shape=s.shape, std=0.5), spec)
    params, x = init(random.key(0), spec=random_spec), random.normal(random.key(1), (2, 3, 8))
    params64, x64 = tree.cast(params, torch.float64), x.double()

    def project(matrix: str, x: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", x, params64[matrix]) + (
            params64[f"{matrix}_bias"] if bias else 0
        )

    if gated:
        inner = naive_activation(name, project("gate", x64)) * project("up", x64)
    else:
        inner = naive_activation(name, project("up", x64))
    expected = project("down", inner)
    torch.testing.assert_close(feedforward(params, x, config=config).double(), expected, rtol=1e-5, atol=1e-5)
    names = {"up", "down", *(["gate"] if gated else [])}
    assert set(params) == names | ({f"{name}_bias" for name in names} if bias else set())


def test_activations_equal_their_formulas() -> None:
    x = torch.linspace(-5, 5, 41)
    for name in ACTIVATIONS:
        torch.testing.assert_close(
            activation(name)(x).double(), naive_activation(name, x.double()), rtol=1e-5, atol=1e-6
        )


def test_a_joint_matrix_of_gate_and_up_gives_the_same() -> None:
    config = ModelConfig(hidden_size=8, head_dim=2, intermediate_size=12)
    params, x = init(random.key(0), spec=feedforward_spec(config)), random.normal(random.key(1), (2, 3, 8))
    joint = {"gate_up": torch.cat([params["gate"], params["up"]]), "down": params["down"]}
    torch.testing.assert_close(feedforward(joint, x, config=config), feedforward(params, x, config=config))
