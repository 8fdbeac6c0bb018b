"""`pure.transform.precision`: bfloat16 products, float32 weights, and a dynamic loss scale."""

from __future__ import annotations

import pytest
import torch

from pure.transform.grad import value_and_grad
from pure.transform.precision import adjust, loss_scale, mixed


def test_mixed_computes_in_bfloat16_and_returns_float32_gradients() -> None:
    params = {"w": torch.full((3,), 1.001), "ids": torch.tensor([1, 2])}
    dtypes_inside = mixed(lambda p: (p["w"].dtype, p["ids"].dtype), torch.bfloat16)(params)
    assert dtypes_inside == (torch.bfloat16, torch.int64)
    _, grads = value_and_grad(mixed(lambda p: (p["w"] * p["w"]).sum().float(), torch.bfloat16))(
        {"w": params["w"]}
    )
    assert grads["w"].dtype == torch.float32
    torch.testing.assert_close(grads["w"], torch.full((3,), 2.0))  # 1.001 is 1 in bfloat16


def test_the_loss_scale_halves_at_overflow_and_doubles_after_a_period_without() -> None:
    state = loss_scale(8.0)
    history = []  # (scale, finite steps since it changed)
    for finite in (True, False, True, True, True, True):
        state = adjust(state, torch.tensor(finite), period=2)
        history.append((state.scale.item(), state.good.item()))
    assert history == [(8.0, 1), (4.0, 0), (4.0, 1), (8.0, 0), (8.0, 1), (16.0, 0)]


def test_a_loss_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="positive factor"):
        loss_scale(0.0)
