"""`pure.nn.position`: rotary frequencies compared with transformers, rotations with complex numbers."""

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


def make_config(head_dim: int = 64, theta: float = 10000.0, **scaling: Any) -> ModelConfig:
    rope_scaling = RopeScaling(**scaling) if scaling else None
    return ModelConfig(
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=head_dim,
        rope_theta=theta,
        rope_scaling=rope_scaling,
    )


LLAMA3 = {"rope_type": "llama3", "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "original_max_position_embeddings": 4096}
CASES = (
    make_config(rope_type="linear", factor=2.5),
    make_config(128, 5e5, factor=8.0, **LLAMA3),
    make_config(64, 5e5, factor=32.0, **LLAMA3),
    make_config(64, 1e4, factor=4.0, low_freq_factor=1.5, high_freq_factor=2.0, **LLAMA3),
    make_config(64, 1e4, factor=4.0, **YARN),
    make_config(128, 1e6, factor=40.0, beta_fast=16.0, beta_slow=2.0, **YARN),
    make_config(64, 1e4, factor=1.0, **YARN),  # neither frequencies nor attention are scaled
    make_config(64, 1e4, factor=4.0, attention_factor=0.7, **YARN),
    make_config(4, 1e4, factor=4.0, **YARN),  # the ramp is wider than the head
    # The ramp begins before pair 0; it is a step, as low = high; it ends after the last pair.
    make_config(64, 1e4, factor=4.0, rope_type="yarn", original_max_position_embeddings=16),
    make_config(2, 1e6, factor=4.0, rope_type="yarn", original_max_position_embeddings=6),
    make_config(64, 100.0, factor=4.0, rope_type="yarn", original_max_position_embeddings=65536),
)


@pytest.mark.parametrize(
    "config", CASES, ids=lambda c: f"{c.rope_scaling.rope_type}-{c.head_dim}-{c.rope_scaling.factor}"
)
def test_frequencies_equal_transformers(config: ModelConfig) -> None:
    assert config.rope_scaling is not None
    parameters = rope_parameters(config)
    peer = transformers.LlamaConfig(
        hidden_size=config.hidden_size,
        num_attention_heads=2,
        head_dim=config.head_dim,
        rope_parameters=parameters,
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[config.rope_scaling.rope_type](peer, torch.device("cpu"))
    torch.testing.assert_close(rope_frequencies(config), frequencies, rtol=2e-6, atol=0)
    assert attention_factor(config.rope_scaling) == pytest.approx(factor)


def test_unscaled_frequencies_equal_their_formula() -> None:
    for config in (make_config(6, 100.0), make_config(6, 100.0, rope_type="default")):
        expected = torch.tensor([100.0 ** (-2 * i / 6) for i in range(3)])
        assert torch.equal(rope_frequencies(config), expected)
        assert attention_factor(config.rope_scaling) == 1.0


def test_yarn_follows_the_paper_where_transformers_does_not() -> None:
    """In a context shorter than every wavelength, all frequencies are divided by the factor.

    This is equation 18 with r < 1 for all pairs.
    """
    config = make_config(8, 1e4, factor=4.0, rope_type="yarn", original_max_position_embeddings=4)
    plain = rope_frequencies(make_config(8, 1e4))
    torch.testing.assert_close(rope_frequencies(config)[1:], plain[1:] / 4)


def test_rotate_equals_a_product_of_complex_numbers() -> None:
    config = make_config(
        8, 100.0, factor=2.0, attention_factor=1.5, rope_type="yarn", original_max_position_embeddings=16
    )
    positions = torch.tensor([[0, 3, 7], [1, 1, 900]])
    x = random.normal(random.key(0), (2, 3, 5, 8))
    angles = positions[..., None].double() * rope_frequencies(config).double()
    product = (
        torch.complex(x[..., :4].double(), x[..., 4:].double())
        * torch.polar(torch.tensor(1.5).double(), angles)[..., None, :]
    )
    expected = torch.cat([product.real, product.imag], -1)
    torch.testing.assert_close(
        rotate(x, rotation(positions, config=config)).double(), expected, rtol=1e-4, atol=1e-4
    )


def test_scores_of_rotated_vectors_depend_only_on_the_distance() -> None:
    config = make_config(16)
    q, k = (random.normal(random.key(i), (1, 1, 16)) for i in range(2))
    scores = []
    for query_position, key_position in ((5, 2), (105, 102), (1003, 1000)):
        rotated_q = rotate(q, rotation(torch.tensor([query_position]), config=config))
        rotated_k = rotate(k, rotation(torch.tensor([key_position]), config=config))
        scores.append((rotated_q * rotated_k).sum())
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3), rtol=1e-4, atol=1e-4)


def test_rotate_keeps_the_dtype_and_computes_in_float32() -> None:
    angles = rotation(torch.arange(4), config=make_config(8))
    x = random.normal(random.key(0), (4, 1, 8)).bfloat16()
    assert rotate(x, angles).dtype == torch.bfloat16
    assert torch.equal(rotate(x, angles), rotate(x.float(), angles).bfloat16())
    assert rotate(x.double(), angles).dtype == torch.float64


def test_sinusoids_equal_their_formula() -> None:
    found = sinusoidal(torch.tensor([[0, 1], [2, 500]]), 6)
    assert found.shape == (2, 2, 6)
    for p, row in ((1, found[0, 1]), (500, found[1, 1])):
        angles = [p / 10000 ** (2 * i / 6) for i in range(3)]
        expected = [function(angle) for angle in angles for function in (math.sin, math.cos)]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_sinusoids_at_far_positions_have_frequencies_of_float64() -> None:
    frequencies = torch.tensor([10000 ** (-2 * i / 64) for i in range(32)])
    angles = torch.tensor([30_000.0])[:, None] * frequencies
    found = sinusoidal(torch.tensor([30_000]), 64)
    torch.testing.assert_close(found[:, ::2], angles.sin(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, 1::2], angles.cos(), rtol=0, atol=1e-6)


def test_linear_scaling_divides_all_frequencies_by_the_factor() -> None:
    plain = rope_frequencies(make_config(8))
    scaled = rope_frequencies(make_config(8, rope_type="linear", factor=2.5))
    torch.testing.assert_close(scaled, plain / 2.5)


def test_the_ramp_of_yarn_ends_at_most_one_below_the_width_of_the_head() -> None:
    """The pairs that turn 10,000 times and once are 0.2 and 33.7; the ramp goes from 0 to 7."""
    config = make_config(
        8, 3.0, factor=4.0, beta_fast=10_000.0, rope_type="yarn", original_max_position_embeddings=65536
    )
    plain, divided = rope_frequencies(make_config(8, 3.0)), torch.arange(4) / 7
    torch.testing.assert_close(rope_frequencies(config), plain / 4 * divided + plain * (1 - divided))


def test_the_rotation_is_on_the_device_of_the_positions() -> None:
    angles = rotation(torch.arange(3, device="meta"), config=make_config(8))
    assert {x.device.type for x in angles} == {"meta"}
