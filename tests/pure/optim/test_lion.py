"""`lion` against its formula, and the modes of its sign function."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def test_lion_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    p, mu = rng.normal(size=9), np.zeros(9)
    b1, b2, rate, decay = 0.8, 0.95, 0.01, 0.3
    opt = optim.lion(rate, b1, b2, weight_decay=decay)
    params = torch.tensor(p)
    state = opt.init(params)
    for _ in range(25):
        g = rng.normal(size=9)
        p = p - rate * (np.sign((1 - b1) * g + b1 * mu) + decay * p)
        mu = b2 * mu + (1 - b2) * g
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-12)
    np.testing.assert_allclose(state[0].mu.numpy(), mu, rtol=1e-12)


def test_each_mode_replaces_the_sign_function() -> None:
    g = torch.tensor([-40.0, -0.5, 0.0, 0.5, 40.0])
    steps = {
        mode: optim.scale_by_lion(0.0, mode=mode, smooth_beta=2.0).update(g, optim.scale_by_lion().init(g))[0]
        for mode in ("hard", "smooth", "refined")
    }
    assert steps["hard"].tolist() == [-1, -1, 0, 1, 1]
    assert steps["refined"].tolist() == [-1, -0.5, 0, 0.5, 1]
    torch.testing.assert_close(steps["smooth"], torch.tanh(2 * g))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of hard, smooth, refined, got 'soft'"):
        optim.scale_by_lion(mode="soft")
    with pytest.raises(ValueError, match=r"b2 must be in \[0, 1\)"):
        optim.lion(0.1, b2=1.5)
    with pytest.raises(ValueError, match="learning_rate"):
        optim.lion(-1.0)


@pytest.mark.parametrize(("gradient", "moment"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_lion_of_two_dtypes_is_computed_in_float32(gradient: str, moment: str) -> None:
    generator = torch.Generator().manual_seed(0)
    g, mu = (torch.randn(1000, generator=generator).to(getattr(torch, name)) for name in (gradient, moment))
    opt = optim.scale_by_lion(0.9, 0.95)
    _, state = opt.update(g, opt.init(mu)._replace(mu=mu), None)
    expected = 0.05 * g.float() + 0.95 * mu.float()
    torch.testing.assert_close(state.mu, expected.to(mu.dtype), rtol=1e-6, atol=0)
