"""Mixed precision: bfloat16 products, float32 weights, and a dynamic loss scale."""

from __future__ import annotations

import pytest
import torch

from pure.transform.grad import value_and_grad
from pure.transform.precision import adjust, loss_scale, mixed


def test_params_are_narrow_inside_and_gradients_wide_outside() -> None:
    params = {"w": torch.full((3,), 1.001), "ids": torch.tensor([1, 2])}
    seen = mixed(lambda p: (p["w"].dtype, p["ids"].dtype), torch.bfloat16)(params)
    assert seen == (torch.bfloat16, torch.int64)
    _, grads = value_and_grad(mixed(lambda p: (p["w"] * p["w"]).sum().float(), torch.bfloat16))(
        {"w": params["w"]}
    )
    assert grads["w"].dtype == torch.float32
    torch.testing.assert_close(grads["w"], torch.full((3,), 2.0))  # 1.001 is 1 in bfloat16


def test_the_scale_halves_at_overflow_and_doubles_after_a_while() -> None:
    state = loss_scale(8.0)
    heights = []
    for finite in (True, False, True, True, True, True):
        state = adjust(state, torch.tensor(finite), period=2)
        heights.append((state.scale.item(), state.good.item()))
    assert heights == [(8.0, 1), (4.0, 0), (4.0, 1), (8.0, 0), (8.0, 1), (16.0, 0)]


def test_a_scale_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive factor"):
        loss_scale(0.0)
