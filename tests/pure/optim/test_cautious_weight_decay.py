"""Cautious weight decay against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def test_cautious_decay_adamw_equals_its_formula() -> None:
    rng = np.random.default_rng(0)
    p, mu, nu = rng.normal(size=9), np.zeros(9), np.zeros(9)
    opt, params = optim.cautious_decay_adamw(0.01, 0.9, 0.8, weight_decay=0.3), torch.tensor(p)
    state = opt.init(params)
    for t in range(1, 25):
        g = rng.normal(size=9)
        mu, nu = 0.1 * g + 0.9 * mu, 0.2 * g**2 + 0.8 * nu
        u = mu / (1 - 0.9**t) / (np.sqrt(nu / (1 - 0.8**t)) + 1e-8)
        p = p - 0.01 * (u + 0.3 * np.where(u * p >= 0, p, 0))
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-11)


def test_a_schedule_and_a_mask_are_those_of_the_plain_decay() -> None:
    """With updates of the params' own sign every weight decays, so that both give the same numbers and states."""
    params = {"w": torch.tensor([2.0, -3.0]), "norm": torch.tensor([1.0])}
    arguments = optim.linear_schedule(0.5, 0.0, 10), optim.path_mask(exclude=("norm",))
    plain, careful = optim.add_decayed_weights(*arguments), optim.add_cautious_decayed_weights(*arguments)
    state = plain.init(params)
    for _ in range(2):
        expected, after = plain.update(params, state, params)
        found, state = careful.update(params, state, params)
        torch.testing.assert_close(found, expected)
        assert state == after


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay must be a finite number >= 0, got -1"):
        optim.add_cautious_decayed_weights(-1)
    decay = optim.add_cautious_decayed_weights(0.1)
    with pytest.raises(ValueError, match="add_cautious_decayed_weights: expected params, got None"):
        decay.update(torch.ones(2), decay.init(torch.ones(2)))
