"""`pure.nn.norm`: RMS norm and layer norm compared with torch, and their edge cases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pure import random
from pure.config import ModelConfig
from pure.nn.norm import layer_norm, norm, norm_spec, rms_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_equal_torch_in_value_and_gradient(dtype: torch.dtype) -> None:
    x, scale, bias, cotangent = (
        random.normal(random.key(i), shape).to(dtype).requires_grad_(i < 3)
        for i, shape in enumerate([(3, 5, 8), (8,), (8,), (3, 5, 8)])
    )
    for ours, theirs, leaves in (
        (rms_norm(x, scale, eps=1e-2), F.rms_norm(x, (8,), scale, eps=1e-2), (x, scale)),
        (
            layer_norm(x, scale, bias, eps=1e-2),
            F.layer_norm(x, (8,), scale, bias, eps=1e-2),
            (x, scale, bias),
        ),
    ):
        torch.testing.assert_close(ours, theirs)
        for a, b in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (ours, theirs)), strict=True):
            torch.testing.assert_close(a, b)


def test_statistics_of_bfloat16_are_computed_in_float32() -> None:
    """A sum of 4096 ones in bfloat16 would stop at 256."""
    ones = torch.ones(4096, dtype=torch.bfloat16)
    assert torch.equal(rms_norm(ones, ones, eps=1e-6), ones)
    assert torch.equal(layer_norm(ones, ones, ones, eps=1e-6), ones)


def test_the_scale_multiplies_the_rounded_row_in_its_dtype() -> None:
    """As in Llama: statistics and division in float32, then one rounding, then the product."""
    x = random.normal(random.key(0), (50, 64)).bfloat16()
    scale, bias = random.normal(random.key(1), (2, 64)).bfloat16()
    row = F.rms_norm(x.float(), (64,), eps=1e-6).bfloat16()
    centred = F.layer_norm(x.float(), (64,), eps=1e-6).bfloat16()
    for y, expected in (
        (rms_norm(x, scale, eps=1e-6), row * scale),
        (layer_norm(x, scale, bias, eps=1e-6), centred * scale + bias),
    ):
        assert y.dtype == torch.bfloat16
        assert (y != expected).float().mean() < 0.01


def test_rows_of_zeros_have_finite_values_and_gradients() -> None:
    zeros, ones = torch.zeros(2, 4, requires_grad=True), torch.ones(4)
    for y in (rms_norm(zeros, ones, eps=1e-6), layer_norm(zeros, ones, ones, eps=1e-6) - 1):
        assert torch.equal(y, torch.zeros(2, 4))
        assert torch.autograd.grad(y.sum(), zeros)[0].isfinite().all()


@pytest.mark.parametrize("rms", [True, False])
def test_the_configuration_selects_the_norm(rms: bool) -> None:
    config = ModelConfig(hidden_size=8, head_dim=2, use_rms_norm=rms, rms_norm_eps=0.1)
    assert sorted(norm_spec(8, rms=rms)) == (["scale"] if rms else ["bias", "scale"])
    params = {name: torch.full((8,), 2.0) for name in norm_spec(8, rms=rms)}
    x = random.normal(random.key(0), (3, 8))
    two = params["scale"]
    expected = rms_norm(x, two, eps=0.1) if rms else layer_norm(x, two, two, eps=0.1)
    assert torch.equal(norm(params, x, config=config), expected)
