"""Advantages: against a loop, unscored completions, and groups of equal rewards, whose advantages are exactly 0."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pure import random
from pure.loss.advantages import SCALES, equal_rewards, group_advantages, leave_one_out

REWARDS = random.normal(random.key(9), (6, 4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_a_loop(scale: str) -> None:
    found = group_advantages(REWARDS, scale=scale)
    flat = REWARDS.double().flatten()
    for i, row in enumerate(REWARDS.double()):
        spread = {"group": row.std().item(), "batch": flat.std().item(), "none": 1 - 1e-4}[scale]
        torch.testing.assert_close(
            found[i].double(), (row - row.mean()) / (spread + 1e-4), rtol=1e-4, atol=1e-6
        )


def test_answers_that_were_not_judged_are_left_out() -> None:
    rewards = torch.tensor([[1.0, float("nan"), 3.0], [float("nan")] * 3, [2.0, float("nan"), float("nan")]])
    found = group_advantages(rewards)
    torch.testing.assert_close(found[0, [0, 2]], group_advantages(torch.tensor([[1.0, 3.0]]))[0])
    assert found[0, 1] == 0
    assert (found[1:] == 0).all()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_of_one_or_of_equals_has_no_advantage(scale: str) -> None:
    assert (group_advantages(torch.tensor([[3.0], [3.0]]), scale=scale) == 0).all()
    assert (group_advantages(torch.full((2, 4), 0.1), scale=scale) == 0).all()
    assert (leave_one_out(torch.tensor([[3.0]])) == 0).all()


def test_leave_one_out_compares_with_the_others() -> None:
    found = leave_one_out(REWARDS)
    for i in range(4):
        others = REWARDS[:, [j for j in range(4) if j != i]].mean(1)
        torch.testing.assert_close(found[:, i], REWARDS[:, i] - others)


def test_unknown_scales_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="group, batch, none"):
        group_advantages(REWARDS, scale="token")


@pytest.mark.parametrize("scale", [*SCALES, "leave_one_out"])
@pytest.mark.parametrize("value", [0.7, 1 / 3, -2.3, 1e-8, 1e7])
@pytest.mark.parametrize("size", [2, 3, 8, 61])
def test_equal_rewards_give_exactly_nothing(scale: str, value: float, size: int) -> None:
    """The rounding of a mean, divided by a deviation of rounding, would be a full advantage."""
    advantages = leave_one_out if scale == "leave_one_out" else partial(group_advantages, scale=scale)
    missing = torch.where(torch.arange(size) % 3 == 1, torch.nan, torch.full((size,), value))
    rewards = torch.stack([torch.full((size,), value), missing, torch.arange(size) * value])
    found = advantages(rewards)
    assert (found[:2] == 0).all()
    assert (found[2] != 0).any()
    assert equal_rewards(rewards).tolist() == [True, True, False]


def test_large_and_near_rewards_are_compared_in_float64() -> None:
    """Squares of 1e30 overflow float32: the deviation was infinite, and every advantage 0."""
    large = group_advantages(torch.tensor([[1e30, -1e30, 3e38, 0.0]]))
    assert torch.allclose(
        large, group_advantages(torch.tensor([[1e-3, -1e-3, 3e5, 0.0]]), eps=0.0), atol=1e-5
    )
    near = group_advantages(torch.tensor([[0.7, 0.7 + 1e-12, 0.7]], dtype=torch.float64))
    assert (near.abs() < 1e-7).all()
    assert torch.isfinite(group_advantages(torch.tensor([[1e300, 0.0, 1.0]], dtype=torch.float64))).all()
