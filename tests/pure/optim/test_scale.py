"""`pure.optim.scale`: scaling updates by the learning rate, a factor or a schedule."""

from __future__ import annotations

import inspect

import pytest
import torch

from pure import optim
from pure.optim.scale import schedule_value

GRADS = torch.tensor([2.0, -4.0])


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5), optim.constant_schedule(0.5)])
def test_scale_by_learning_rate_flips_the_sign_by_default(rate: object) -> None:
    flipped, not_flipped = (
        optim.scale_by_learning_rate(rate),
        optim.scale_by_learning_rate(rate, flip_sign=False),
    )
    assert flipped.update(GRADS, flipped.init(GRADS))[0].tolist() == [-1.0, 2.0]
    assert not_flipped.update(GRADS, not_flipped.init(GRADS))[0].tolist() == [1.0, -2.0]


def test_scale_by_learning_rate_of_none_is_the_identity() -> None:
    opt = optim.scale_by_learning_rate(None)
    assert opt.update(GRADS, opt.init(GRADS)) == (GRADS, optim.EmptyState())


def test_a_schedule_is_called_with_the_number_of_previous_updates() -> None:
    opt = optim.scale_by_schedule(optim.linear_schedule(0.0, 4.0, 4))
    state, factors = opt.init(GRADS), []
    for _ in range(3):
        updates, state = opt.update(GRADS, state)
        factors.append(updates[0].item())
    assert factors == [0.0, 2.0, 4.0]


def test_scaled_bfloat16_leaves_stay_bfloat16_and_are_rounded_once() -> None:
    """The factor itself is not rounded to bfloat16 before the product."""
    g = torch.tensor([3.0], dtype=torch.bfloat16)
    for opt in (
        optim.scale(1e-3),
        optim.scale(torch.tensor(1e-3)),
        optim.scale_by_schedule(lambda count: 1e-3),
    ):
        updates, _ = opt.update(g, opt.init(g))
        assert updates.item() == torch.tensor(3e-3, dtype=torch.bfloat16).item()


def test_schedule_value_of_a_number_and_of_a_schedule() -> None:
    count = torch.tensor(1, dtype=torch.int32)
    assert schedule_value(0.5, None) == 0.5
    assert schedule_value(optim.linear_schedule(0.0, 1.0, 2), count).item() == 0.5


def test_bad_learning_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="learning_rate must be a finite number >= 0, got -1"):
        optim.scale_by_learning_rate(-1)
    for rate in ("a", [0.1]):
        with pytest.raises(TypeError, match=r"learning_rate must be a number or a 0-d tensor, got"):
            inspect.unwrap(optim.scale_by_learning_rate)(rate)
