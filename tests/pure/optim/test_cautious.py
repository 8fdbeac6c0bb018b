"""`cautious` and `cautious_adamw` against the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def test_cautious_adamw_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    p, mu, nu = rng.normal(size=9), np.zeros(9), np.zeros(9)
    opt, params = optim.cautious_adamw(0.01, 0.9, 0.8, weight_decay=0.3), torch.tensor(p)
    state = opt.init(params)
    masked = 0
    for t in range(1, 25):
        g = rng.normal(size=9)
        mu, nu = 0.1 * g + 0.9 * mu, 0.2 * g**2 + 0.8 * nu
        keep = mu * g > 0
        masked += 9 - keep.sum()
        u = mu / (1 - 0.9**t) / (np.sqrt(nu / (1 - 0.8**t)) + 1e-8) * keep * 9 / (keep.sum() + 1)
        p = p - 0.01 * (u + 0.3 * p)
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    assert masked > 20
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-11)


def test_a_whole_optimizer_and_its_scaling_are_masked_alike() -> None:
    g = torch.tensor([3.0, -0.5, 0.0])
    params = torch.zeros(3)
    whole = optim.cautious(optim.sgd(0.5, 0.9))
    inner = optim.chain(optim.cautious(optim.trace(0.9), negated=False), optim.scale_by_learning_rate(0.5))
    for opt in (whole, inner):
        state = opt.update(torch.ones(3), opt.init(params), params)[1]
        torch.testing.assert_close(opt.update(g, state, params)[0], -0.5 * torch.tensor([3.9, 0, 0]) * 3 / 2)


def test_where_no_sign_agrees_nothing_moves_and_nan_stays_visible() -> None:
    opt, zeros = optim.cautious(optim.sgd(1.0, 0.9), eps=0.0), torch.zeros(2)
    state = opt.update(torch.tensor([5.0, 5.0]), opt.init(zeros), zeros)[1]
    assert not opt.update(torch.tensor([-1.0, -1.0]), state, zeros)[0].any()
    assert opt.update(torch.tensor([torch.nan, 1.0]), state, zeros)[0].isnan().tolist() == [True, False]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="eps must be a finite number >= 0, got -1"):
        optim.cautious(optim.sgd(0.1), eps=-1)
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\)"):
        optim.cautious_adamw(0.1, b1=1.0)
