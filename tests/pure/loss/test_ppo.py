"""PPO: generalized advantages against the recursion, the two clipped losses against loops, whitening against
torch."""

from __future__ import annotations

import math

import pytest
import torch

from pure import random
from pure.loss.ppo import gae, ppo_policy_loss, ppo_value_loss, whiten
from pure.transform.grad import value_and_grad

ANSWERS, TOKENS = 5, 8
LENGTHS = torch.tensor([8, 3, 0, 1, 5])
MASK = torch.arange(TOKENS) < LENGTHS[:, None]
REWARDS, VALUES, OLD_VALUES, RETURNS = (random.normal(random.key(i), (ANSWERS, TOKENS)) for i in range(4))
LOGPS, OLD = (-1 - 0.4 * random.normal(random.key(i), (ANSWERS, TOKENS)).abs() for i in (5, 6))


def recursion(mask: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """A_t = δ_t + γ λ A_{t+1}, from the end, over the tokens that count."""
    out = torch.zeros(mask.shape, dtype=torch.float64)
    for b in range(len(mask)):
        value, advantage = 0.0, 0.0
        for t in reversed(range(mask.shape[1])):
            if mask[b, t]:
                delta = REWARDS[b, t].item() + gamma * value - VALUES[b, t].item()
                advantage = delta + gamma * lam * advantage
                out[b, t], value = advantage, VALUES[b, t].item()
    return out


@pytest.mark.parametrize(
    ("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.9, 0.5), (1.0, 0.0), (0.0, 0.9), (1.0, 1.0)]
)
@pytest.mark.parametrize("holes", [False, True])
def test_advantages_equal_the_recursion(gamma: float, lam: float, holes: bool) -> None:
    mask = MASK & (torch.arange(TOKENS) % 3 != 1) if holes else MASK
    found = gae(REWARDS, VALUES, mask, gamma=gamma, lam=lam)
    torch.testing.assert_close(found.advantages.double(), recursion(mask, gamma, lam), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.returns, torch.where(mask, found.advantages + VALUES, 0.0))


def test_advantages_by_hand() -> None:
    """λ = 0: one step ahead. λ = 1, γ = 1: all that is still to come, minus the value."""
    rewards, values, mask = (
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([[0.5, 0.5, 0.5]]),
        torch.ones(1, 3).bool(),
    )
    torch.testing.assert_close(
        gae(rewards, values, mask, gamma=1.0, lam=0.0).advantages, torch.tensor([[1.0, 2.0, 2.5]])
    )
    torch.testing.assert_close(
        gae(rewards, values, mask, gamma=1.0, lam=1.0).advantages, torch.tensor([[5.5, 4.5, 2.5]])
    )


def test_masked_positions_may_hold_anything() -> None:
    wild = torch.where(MASK, REWARDS, math.nan)
    torch.testing.assert_close(
        gae(wild, torch.where(MASK, VALUES, math.inf), MASK), gae(REWARDS, VALUES, MASK)
    )


def test_whitening_equals_torch() -> None:
    kept = REWARDS[MASK].double()
    found = whiten(REWARDS, MASK)
    torch.testing.assert_close(found[MASK].double(), (kept - kept.mean()) / kept.std(), rtol=1e-5, atol=1e-5)
    assert (found[~MASK] == 0).all()
    torch.testing.assert_close(
        whiten(REWARDS, MASK, keep_mean=True)[MASK], found[MASK] + REWARDS[MASK].mean()
    )


@pytest.mark.parametrize(
    "mask", [torch.zeros(2, 3).bool(), torch.tensor([[True, False, False], [False] * 3])]
)
def test_whitening_nothing_or_one_value_gives_zero(mask: torch.Tensor) -> None:
    assert (whiten(torch.full((2, 3), 7.0), mask) == 0).all()


def test_the_policy_loss_equals_a_loop() -> None:
    found = ppo_policy_loss(LOGPS, OLD, REWARDS, MASK, clip=0.2)
    total = 0.0
    for b in range(ANSWERS):
        for t in range(int(LENGTHS[b])):
            r, a = math.exp(float(LOGPS[b, t] - OLD[b, t])), float(REWARDS[b, t])
            total -= min(r * a, min(max(r, 0.8), 1.2) * a)
    assert found.sum.item() == pytest.approx(total, rel=1e-5)
    assert found.count == MASK.sum()


@pytest.mark.parametrize("clip", [None, 0.3])
def test_the_value_loss_equals_a_loop(clip: float | None) -> None:
    found = ppo_value_loss(VALUES, OLD_VALUES, RETURNS, MASK, clip=clip)
    total = 0.0
    for b in range(ANSWERS):
        for t in range(int(LENGTHS[b])):
            v, old, expected = float(VALUES[b, t]), float(OLD_VALUES[b, t]), float(RETURNS[b, t])
            near = old + min(max(v - old, -clip), clip) if clip else v
            total += 0.5 * max((v - expected) ** 2, (near - expected) ** 2)
    assert found.sum.item() == pytest.approx(total, rel=1e-5)
    assert found.count == MASK.sum()


def test_masked_tokens_get_no_gradient() -> None:
    policy = value_and_grad(lambda x: ppo_policy_loss(x, OLD, REWARDS, MASK, clip=5.0).sum)(LOGPS)[1]
    value = value_and_grad(lambda x: ppo_value_loss(x, OLD_VALUES, RETURNS, MASK).sum)(VALUES)[1]
    for grad in (policy, value):
        assert (grad[~MASK] == 0).all()
        assert (grad[MASK] != 0).any()


def test_absurd_ratios_stay_finite() -> None:
    value, grad = value_and_grad(lambda x: ppo_policy_loss(x, OLD, REWARDS, MASK).sum)(LOGPS * 1e6)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("value", [0.7, 1 / 3, -2.3, 1e-8, 1e7])
@pytest.mark.parametrize("size", [2, 3, 8, 61])
def test_whitening_equal_values_gives_exactly_zero(value: float, size: int) -> None:
    values, mask = torch.full((2, size), value), torch.arange(size) % 3 != 1
    assert (whiten(torch.where(mask, values, 5.0), mask.expand(2, -1)) == 0).all()
    kept = whiten(values, mask.expand(2, -1), keep_mean=True)
    torch.testing.assert_close(kept, torch.where(mask, values, 0.0))
