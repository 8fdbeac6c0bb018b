"""`pure.loss.ppo`: advantages and clipped losses compared with loops, whitening with torch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pure import random, tree
from pure.loss.ppo import gae, ppo_policy_loss, ppo_value_loss
from pure.loss.whiten import whiten
from pure.transform.grad import value_and_grad

ANSWERS, TOKENS = 5, 8
LENGTHS = torch.tensor([8, 3, 0, 1, 5])
MASK = torch.arange(TOKENS) < LENGTHS[:, None]
REWARDS, VALUES, OLD_VALUES, RETURNS = (random.normal(random.key(i), (ANSWERS, TOKENS)) for i in range(4))
LOGPS, OLD = (-1 - 0.4 * random.normal(random.key(i), (ANSWERS, TOKENS)).abs() for i in (5, 6))


def naive_advantages(mask: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """Compute A_t = δ_t + γ λ A_{t+1} from the last token to the first, over the tokens in the mask."""
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
    torch.testing.assert_close(
        found.advantages.double(), naive_advantages(mask, gamma, lam), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(found.returns, torch.where(mask, found.advantages + VALUES, 0.0))


def test_advantages_at_lambda_0_and_1_equal_values_by_hand() -> None:
    """λ = 0: reward plus next value minus value. λ = 1, γ = 1: sum of later rewards minus value."""
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


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree.leaves(out) if isinstance(x, torch.Tensor))])
        return out


def run_recorded(engine: str, *arguments: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Compute advantages [2, T] by an engine; return them and the elements of the largest tensor on the way."""
    function = partial(gae, gamma=0.999, lam=0.95)
    if engine == "compile":
        sizes: list[int] = []

        def record(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            values = [node.meta.get("example_value") for node in graph.graph.nodes]
            sizes.extend(value.numel() for value in values if isinstance(value, torch.Tensor))
            return graph.forward

        found = torch.compile(function, backend=record, fullgraph=True)(*arguments).advantages
        return found, max(sizes)
    with Largest() as largest:
        if engine == "vmap":
            rows = torch.func.vmap(function)(*(x[:, None] for x in arguments))
            return rows.advantages[:, 0], largest.numel
        return function(*arguments).advantages, largest.numel


@pytest.mark.parametrize("engine", ["eager", "vmap", "compile"])
def test_long_answers_take_memory_linear_in_their_length(engine: str) -> None:
    length = 4096
    rewards, values = (random.normal(random.key(i), (2, length)).double() for i in (1, 2))
    mask = random.uniform(random.key(3), (2, length)) < 0.9
    found, largest = run_recorded(engine, rewards, values, mask)
    assert 2 * length <= largest <= 4 * length
    expected = torch.zeros_like(rewards)
    value = advantage = torch.zeros(2, dtype=torch.float64)
    for t in reversed(range(length)):
        delta = rewards[:, t] + 0.999 * value - values[:, t]
        advantage = torch.where(mask[:, t], delta + 0.999 * 0.95 * advantage, advantage)
        expected[:, t] = torch.where(mask[:, t], advantage, 0.0)
        value = torch.where(mask[:, t], values[:, t], value)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_nan_and_inf_at_masked_positions_do_not_change_advantages() -> None:
    rewards = torch.where(MASK, REWARDS, math.nan)
    torch.testing.assert_close(
        gae(rewards, torch.where(MASK, VALUES, math.inf), MASK), gae(REWARDS, VALUES, MASK)
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
def test_whitening_of_no_values_or_one_gives_zero(mask: torch.Tensor) -> None:
    assert (whiten(torch.full((2, 3), 7.0), mask) == 0).all()


def test_the_policy_loss_equals_a_loop() -> None:
    found = ppo_policy_loss(LOGPS, OLD, REWARDS, MASK, clip=0.2)
    total = 0.0
    for b in range(ANSWERS):
        for t in range(int(LENGTHS[b])):
            ratio, advantage = math.exp(float(LOGPS[b, t] - OLD[b, t])), float(REWARDS[b, t])
            total -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert found.sum.item() == pytest.approx(total, rel=1e-5)
    assert found.count == MASK.sum()


@pytest.mark.parametrize("clip", [None, 0.3])
def test_the_value_loss_equals_a_loop(clip: float | None) -> None:
    found = ppo_value_loss(VALUES, OLD_VALUES, RETURNS, MASK, clip=clip)
    total = 0.0
    for b in range(ANSWERS):
        for t in range(int(LENGTHS[b])):
            value, old, target = float(VALUES[b, t]), float(OLD_VALUES[b, t]), float(RETURNS[b, t])
            clipped = old + min(max(value - old, -clip), clip) if clip else value
            total += 0.5 * max((value - target) ** 2, (clipped - target) ** 2)
    assert found.sum.item() == pytest.approx(total, rel=1e-5)
    assert found.count == MASK.sum()


def test_masked_tokens_get_no_gradient() -> None:
    policy = value_and_grad(lambda x: ppo_policy_loss(x, OLD, REWARDS, MASK, clip=5.0).sum)(LOGPS)[1]
    value = value_and_grad(lambda x: ppo_value_loss(x, OLD_VALUES, RETURNS, MASK).sum)(VALUES)[1]
    for grad in (policy, value):
        assert (grad[~MASK] == 0).all()
        assert (grad[MASK] != 0).any()


def test_the_policy_loss_of_extreme_ratios_is_finite() -> None:
    value, grad = value_and_grad(lambda x: ppo_policy_loss(x, OLD, REWARDS, MASK).sum)(LOGPS * 1e6)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("value", [0.7, 1 / 3, -2.3, 1e-8, 1e7])
@pytest.mark.parametrize("size", [2, 3, 8, 61])
def test_whitening_of_equal_values_gives_exactly_zero(value: float, size: int) -> None:
    values, mask = torch.full((2, size), value), torch.arange(size) % 3 != 1
    assert (whiten(torch.where(mask, values, 5.0), mask.expand(2, -1)) == 0).all()
    kept = whiten(values, mask.expand(2, -1), keep_mean=True)
    torch.testing.assert_close(kept, torch.where(mask, values, 0.0))


def test_token_weights_multiply_the_losses_and_get_no_gradient() -> None:
    logps, old, advantages = (random.normal(random.key(i), (2, 3)) / 4 for i in range(3))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = torch.tensor([[1.0, 0.5, 9.0], [0.0, 2.0, 1.0]], requires_grad=True)
    ratio = (logps - old).double().exp()
    expected = (
        -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) * weights.detach() * mask
    )
    found = ppo_policy_loss(logps, old, advantages, mask, clip=0.2, token_weights=weights)
    assert found.sum.item() == pytest.approx(expected.sum().item(), rel=1e-5)
    assert not found.sum.requires_grad
    assert found.count.item() == 5
