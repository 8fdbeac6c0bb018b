"""Rotary frequencies against transformers', rotation against complex numbers, sinusoids against their
formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pure import random
from pure.config import ModelConfig, RopeScaling
from pure.nn.position import attention_factor, rope_frequencies, rotate, rotation, sinusoidal
from tests.pure.nn.hugging_face import rope_parameters


def config(head_dim: int = 64, theta: float = 10000.0, **scaling: Any) -> ModelConfig:
    made = RopeScaling(**scaling) if scaling else None
    return ModelConfig(
        num_attention_heads=2, num_key_value_heads=2, head_dim=head_dim, rope_theta=theta, rope_scaling=made
    )


LLAMA3 = {"rope_type": "llama3", "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "original_max_position_embeddings": 4096}
CASES = (
    config(rope_type="linear", factor=2.5),
    config(128, 5e5, factor=8.0, **LLAMA3),
    config(64, 5e5, factor=32.0, **LLAMA3),
    config(64, 1e4, factor=4.0, low_freq_factor=1.5, high_freq_factor=2.0, **LLAMA3),
    config(64, 1e4, factor=4.0, **YARN),
    config(128, 1e6, factor=40.0, beta_fast=16.0, beta_slow=2.0, **YARN),
    config(64, 1e4, factor=1.0, **YARN),  # nothing to stretch, nothing to sharpen
    config(64, 1e4, factor=4.0, attention_factor=0.7, **YARN),
    config(4, 1e4, factor=4.0, **YARN),  # the ramp is wider than the head
    config(
        64, 1e4, factor=4.0, rope_type="yarn", original_max_position_embeddings=16
    ),  # it begins before pair 0
    config(
        2, 1e6, factor=4.0, rope_type="yarn", original_max_position_embeddings=7
    ),  # low = high: a step, not a ramp
    config(
        64, 100.0, factor=4.0, rope_type="yarn", original_max_position_embeddings=65536
    ),  # it ends after the last
)


@pytest.mark.parametrize(
    "given", CASES, ids=lambda c: f"{c.rope_scaling.rope_type}-{c.head_dim}-{c.rope_scaling.factor}"
)
def test_frequencies_equal_transformers(given: ModelConfig) -> None:
    assert given.rope_scaling is not None
    parameters = rope_parameters(given)
    peer = transformers.LlamaConfig(
        hidden_size=given.hidden_size,
        num_attention_heads=2,
        head_dim=given.head_dim,
        rope_parameters=parameters,
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[given.rope_scaling.rope_type](peer, torch.device("cpu"))
    torch.testing.assert_close(rope_frequencies(given), frequencies, rtol=2e-6, atol=0)
    assert attention_factor(given.rope_scaling) == pytest.approx(factor)


def test_plain_frequencies_are_the_formula() -> None:
    for given in (config(6, 100.0), config(6, 100.0, rope_type="default")):
        expected = torch.tensor([100.0 ** (-2 * i / 6) for i in range(3)])
        assert torch.equal(rope_frequencies(given), expected)
        assert attention_factor(given.rope_scaling) == 1.0


def test_yarn_is_the_papers_ramp_where_transformers_is_not() -> None:
    """A context shorter than the fastest wavelength: no pair turns once, all are stretched (equation 18 with
    r < 1)."""
    given = config(8, 1e4, factor=4.0, rope_type="yarn", original_max_position_embeddings=4)
    plain = rope_frequencies(config(8, 1e4))
    torch.testing.assert_close(rope_frequencies(given)[1:], plain[1:] / 4)


def test_rotation_multiplies_complex_numbers() -> None:
    given = config(
        8, 100.0, factor=2.0, attention_factor=1.5, rope_type="yarn", original_max_position_embeddings=16
    )
    positions = torch.tensor([[0, 3, 7], [1, 1, 900]])
    x = random.normal(random.key(0), (2, 3, 5, 8))
    angles = positions[..., None].double() * rope_frequencies(given).double()
    turned = (
        torch.complex(x[..., :4].double(), x[..., 4:].double())
        * torch.polar(torch.tensor(1.5).double(), angles)[..., None, :]
    )
    expected = torch.cat([turned.real, turned.imag], -1)
    torch.testing.assert_close(
        rotate(x, rotation(positions, config=given)).double(), expected, rtol=1e-4, atol=1e-4
    )


def test_scores_depend_on_distance_alone() -> None:
    given = config(16)
    q, k = (random.normal(random.key(i), (1, 1, 16)) for i in range(2))
    scores = [
        (
            rotate(q, rotation(torch.tensor([a]), config=given))
            * rotate(k, rotation(torch.tensor([b]), config=given))
        ).sum()
        for a, b in ((5, 2), (105, 102), (1003, 1000))
    ]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3), rtol=1e-4, atol=1e-4)


def test_rotation_keeps_the_type_and_computes_in_float32() -> None:
    angles = rotation(torch.arange(4), config=config(8))
    x = random.normal(random.key(0), (4, 1, 8)).bfloat16()
    assert rotate(x, angles).dtype == torch.bfloat16
    assert torch.equal(rotate(x, angles), rotate(x.float(), angles).bfloat16())
    assert rotate(x.double(), angles).dtype == torch.float64


def test_sinusoids_are_the_formula() -> None:
    found = sinusoidal(torch.tensor([[0, 1], [2, 500]]), 6)
    assert found.shape == (2, 2, 6)
    for p, row in ((1, found[0, 1]), (500, found[1, 1])):
        expected = [f(p / 10000 ** (2 * i / 6)) for i in range(3) for f in (math.sin, math.cos)]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-4, atol=1e-4)
