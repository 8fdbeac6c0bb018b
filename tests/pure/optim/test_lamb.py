"""`lamb` and `scale_by_trust_ratio` against their formulas, and where a norm is zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def test_lamb_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    p, m, v = rng.normal(size=9), np.zeros(9), np.zeros(9)
    opt, params = optim.lamb(0.01, 0.8, 0.9, weight_decay=0.3), torch.tensor(p)
    state = opt.init(params)
    for t in range(1, 25):
        g = rng.normal(size=9)
        m, v = 0.2 * g + 0.8 * m, 0.1 * g**2 + 0.9 * v
        step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-6) + 0.3 * p
        p = p - 0.01 * np.linalg.norm(p) / np.linalg.norm(step) * step
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-11)


def test_the_trust_ratio_is_one_and_differentiable_where_a_norm_is_zero() -> None:
    opt = optim.scale_by_trust_ratio()
    u = torch.tensor([0.0, 2.0], requires_grad=True)
    zeros = torch.zeros(2, requires_grad=True)
    for update, params in ((u, zeros), (u * 0, torch.ones(2)), (u * 0, zeros)):
        scaled, _ = opt.update(update, optim.EmptyState(), params)
        assert torch.equal(scaled, update)
        assert torch.autograd.grad(scaled.sum(), u)[0].isfinite().all()


def test_the_trust_ratio_uses_min_norm_trust_coefficient_and_eps() -> None:
    opt = optim.scale_by_trust_ratio(min_norm=2.0, trust_coefficient=0.5, eps=1.0)
    scaled, _ = opt.update(torch.tensor([0.6, 0.8]), optim.EmptyState(), torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(scaled, torch.tensor([0.6, 0.8]) * 0.5 * 5 / (2 + 1))


def test_missing_params_and_a_negative_learning_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="scale_by_trust_ratio: expected params, got None"):
        optim.scale_by_trust_ratio().update(torch.ones(2), optim.EmptyState())
    with pytest.raises(ValueError, match="lamb: learning_rate"):
        optim.lamb(-1.0)
