"""`pure.optim.adagrad`: compared with its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def test_adagrad_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    p, total = rng.normal(size=9), np.full(9, 0.3)
    opt, params = optim.adagrad(0.1, 0.3, 1e-3), torch.tensor(p)
    state = opt.init(params)
    for _ in range(25):
        g = rng.normal(size=9)
        total = total + g**2
        p = p - 0.1 * g / np.sqrt(total + 1e-3)
        updates, state = opt.update(torch.tensor(g), state)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-12)


def test_a_coordinate_without_gradients_has_update_zero_and_a_finite_derivative() -> None:
    opt = optim.adagrad(1.0, initial_accumulator_value=0.0, eps=0.0)
    g = torch.tensor([0.0, 2.0], requires_grad=True)
    updates, _ = opt.update(g, opt.init(torch.zeros(2)))
    assert updates.tolist() == [0.0, -1.0]
    assert torch.autograd.grad(updates.sum(), g)[0].isfinite().all()


def test_a_negative_initial_accumulator_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"initial_accumulator_value must be a finite number >= 0, got -0\.1"
    ):
        optim.adagrad(0.1, -0.1)
