"""`rmsprop` against its formula and torch's RMSprop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def test_rmsprop_with_every_option_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    p, nu, mu, velocity = rng.normal(size=9), np.full(9, 0.5), np.zeros(9), np.zeros(9)
    opt = optim.rmsprop(0.01, 0.8, 1e-3, 0.5, centered=True, momentum=0.9, nesterov=True)
    params = torch.tensor(p)
    state = opt.init(params)
    for _ in range(25):
        g = rng.normal(size=9)
        nu, mu = 0.2 * g**2 + 0.8 * nu, 0.2 * g + 0.8 * mu
        u = -0.01 * g / np.sqrt(nu - mu**2 + 1e-3)
        velocity = u + 0.9 * velocity
        p = p + u + 0.9 * velocity
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-12)


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_with_eps_outside_the_root_equals_torch(centered: bool) -> None:
    theirs = torch.nn.Parameter(
        torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    peer = torch.optim.RMSprop([theirs], lr=0.01, alpha=0.9, centered=centered, momentum=0.5)
    opt = optim.rmsprop(0.01, 0.9, eps_in_sqrt=False, centered=centered, momentum=0.5)
    ours = theirs.detach().clone()
    state = opt.init(ours)
    for i in range(5):
        theirs.grad = torch.sin(theirs.detach() + i)
        updates, state = opt.update(torch.sin(ours + i), state)
        ours = optim.apply_updates(ours, updates)
        peer.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-13)


def test_constant_gradients_give_finite_updates() -> None:
    """Their variance is 0, and rounding must not make it negative."""
    opt = optim.scale_by_stddev(eps=1e-12)
    state = opt.init(torch.zeros(1000))
    g = torch.linspace(1.0, 2.0, 1000)
    for _ in range(400):
        updates, state = opt.update(g, state)
    assert updates.isfinite().all()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scale_by_stddev: decay must be in \[0, 1\)"):
        optim.rmsprop(0.1, 1.5, centered=True)
    with pytest.raises(ValueError, match="initial_scale"):
        optim.rmsprop(0.1, initial_scale=-1.0)
