"""`sgd`, with and without momentum, against its formula and torch's SGD."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_equals_its_formula(nesterov: bool) -> None:
    rng = np.random.default_rng(0)
    velocity, opt = np.zeros(4), optim.sgd(0.1, momentum=0.7, nesterov=nesterov)
    state = opt.init(torch.zeros(4, dtype=torch.float64))
    for _ in range(20):
        g = rng.normal(size=4)
        velocity = g + 0.7 * velocity
        expected = -0.1 * (g + 0.7 * velocity if nesterov else velocity)
        updates, state = opt.update(torch.tensor(g), state)
        np.testing.assert_allclose(updates.numpy(), expected, rtol=1e-12)


def test_sgd_with_nesterov_momentum_equals_torch() -> None:
    peer = torch.nn.Parameter(torch.ones(3))
    torch_sgd = torch.optim.SGD([peer], lr=0.1, momentum=0.9, nesterov=True)
    opt, params = optim.sgd(0.1, 0.9, nesterov=True), torch.ones(3)
    state = opt.init(params)
    for i in range(10):
        peer.grad = torch.arange(3.0) - i
        torch_sgd.step()
        updates, state = opt.update(torch.arange(3.0) - i, state)
        params = optim.apply_updates(params, updates)
    torch.testing.assert_close(params, peer.detach())


def test_sgd_without_momentum_has_an_empty_state() -> None:
    assert optim.sgd(0.1).init(torch.ones(3)) == (optim.EmptyState(), optim.EmptyState())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.1"):
        optim.sgd(0.1, momentum=1.1)
    with pytest.raises(ValueError, match="learning_rate must be a finite number >= 0"):
        optim.sgd(float("nan"))
    with pytest.raises(TypeError, match="accumulator_dtype"):
        optim.sgd(0.1, momentum=0.9, accumulator_dtype=torch.int64)
