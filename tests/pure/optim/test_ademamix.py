"""`ademamix` against its formula, and the schedule of its slow mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pure import optim


def test_formula() -> None:
    rng = np.random.default_rng(0)
    p, fast, slow, nu = rng.normal(size=9), np.zeros(9), np.zeros(9), np.zeros(9)
    opt, params = optim.ademamix(0.01, 0.9, 0.8, 0.99, 2.0, weight_decay=0.3), torch.tensor(p)
    state = opt.init(params)
    for t in range(1, 25):
        g = rng.normal(size=9)
        fast, slow, nu = 0.1 * g + 0.9 * fast, 0.01 * g + 0.99 * slow, 0.2 * g**2 + 0.8 * nu
        u = (fast / (1 - 0.9**t) + 2 * slow) / (np.sqrt(nu / (1 - 0.8**t)) + 1e-8)
        p = p - 0.01 * (u + 0.3 * p)
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-11)


def test_schedules_are_read_before_the_update() -> None:
    """At the first of ten steps the slow mean has weight 0, and at the second 0.1 of 4."""
    schedules = {"b3": optim.half_life_schedule(0.9, 0.99, 10), "alpha": optim.linear_schedule(0.0, 4.0, 10)}
    opt, g = optim.scale_by_ademamix(**schedules), torch.tensor([2.0])
    first, state = opt.update(g, opt.init(g))
    second, _ = opt.update(g, state)
    assert first.item() == pytest.approx(1.0, rel=1e-4)
    b3 = float(schedules["b3"](torch.tensor(1)))
    slow = (1 - b3) * 2 + b3 * 0.1 * 2
    assert second.item() == pytest.approx((2 + 0.4 * slow) / 2, rel=1e-4)


def test_the_half_life_grows_linearly_and_stays_at_its_end() -> None:
    schedule = optim.half_life_schedule(0.9, 0.999, 100)
    half_lives = [math.log(0.5) / math.log(float(schedule(torch.tensor(t)))) for t in (0, 50, 100, 1000)]
    first, last = (math.log(0.5) / math.log(decay) for decay in (0.9, 0.999))
    assert half_lives == pytest.approx([first, (first + last) / 2, last, last], rel=1e-4)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"b3 must be in \[0, 1\), got 1.5"):
        optim.ademamix(0.1, b3=1.5)
    with pytest.raises(ValueError, match="alpha must be a finite number >= 0, got -1"):
        optim.ademamix(0.1, alpha=-1)
    with pytest.raises(ValueError, match=r"b1 and b3 must be in \(0, 1\), got 0 and 0.9"):
        optim.half_life_schedule(0, 0.9, 5)
    with pytest.raises(ValueError, match="steps must be an int >= 1, got 0"):
        optim.half_life_schedule(0.8, 0.9, 0)
