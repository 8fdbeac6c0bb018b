"""Schedule-free training against its formula: the average of the iterates, weighed by the learning rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim, tree


@pytest.mark.parametrize("warmup", [None, 5])
def test_formula(warmup: int | None) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=9)
    x, z, nu, total, largest = y.copy(), y.copy(), np.zeros(9), 0.0, 0.0
    opt, params = optim.schedule_free_adamw(0.1, warmup, 0.9, 0.8, weight_decay=0.3), torch.tensor(y)
    state = opt.init(params)
    for t in range(1, 15):
        g = rng.normal(size=9)
        nu = 0.2 * g**2 + 0.8 * nu
        rate, weighed = (0.1 * min(i / warmup, 1) if warmup else 0.1 for i in (t - 1, t))
        moved = rate * (g / (np.sqrt(nu / (1 - 0.8**t)) + 1e-8) + 0.3 * y)
        largest = max(largest, weighed)
        total += largest**2
        z = z - moved
        x = x + largest**2 / total * (z - x)
        y = 0.9 * x + 0.1 * z
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    rtol = 1e-5 if warmup else 1e-11  # a schedule is float32
    np.testing.assert_allclose(params.numpy(), y, rtol=rtol)
    np.testing.assert_allclose(optim.schedule_free_eval_params(state, params).numpy(), x, rtol=rtol)


def test_a_learning_rate_of_zero_leaves_the_average() -> None:
    opt, params = optim.schedule_free_adamw(0.0), {"w": torch.tensor([1.0])}
    updates, state = opt.update({"w": torch.tensor([2.0])}, opt.init(params), params)
    assert updates["w"].abs().item() < 1e-7
    assert all(x.isfinite().all() for x in tree.leaves(state))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"b1 must be in \(0, 1\), got 0"):
        optim.schedule_free_adamw(b1=0.0)
    opt = optim.schedule_free(optim.sgd(0.1), 0.1)
    with pytest.raises(ValueError, match="schedule_free: expected params, got None"):
        opt.update(torch.ones(1), opt.init(torch.ones(1)))
