"""The three parts of a step, composed and separately, and the metrics of rewards."""

from __future__ import annotations

import functools
import math
from functools import partial

import pytest
import torch

from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.loss.log_probability import linear_log_probabilities
from pure.nn.transformer import transformer
from pure.serial import serial
from pure.transform.jit import jit
from pure.types import Tree
from stages.grpo import grpo
from stages.online import Online, generate_and_score, policy_of, reward_metrics, weighted_sum
from stages.ppo import ppo
from stages.rollout import Rollouts, completion_log_probabilities
from stages.stage import Stage
from tests.laws.test_stages import VOCABULARY, make_own, same_bits, small

KINDS = pytest.mark.parametrize("kind", [grpo, ppo])
MODEL = transformer(small(max_position_embeddings=32))
SAMPLING = Sampling(max_new_tokens=5, stop_tokens=(1,))
OPTIONS = {"samples": 4, "sampling": SAMPLING}


LOGPS_FN = partial(
    completion_log_probabilities,
    model=MODEL,
    head=partial(linear_log_probabilities, logits=MODEL.logits, entropy=True),
)


def policy_logps(params: Tree, rollouts: Rollouts) -> torch.Tensor:
    """Log-probabilities [B, M] under some params, as the stages compute them."""
    return LOGPS_FN(params, rollouts).logps


def evens(rollouts: Rollouts) -> torch.Tensor:
    """Reward: the share of even tokens."""
    even = (rollouts.tokens[:, -rollouts.mask.shape[1] :] % 2 == 0) & rollouts.mask
    return (even.sum(1) / rollouts.mask.sum(1).clamp(min=1))[:, None]


def make(kind: object, score: object = evens, **changes: object) -> Stage:
    return kind(MODEL, optim.adam(1e-2), score=score, **(OPTIONS | changes))


def prompts(number: int) -> Tree:
    drawn = random.randint(random.key(500 + number), (6, 3), 2, VOCABULARY).long()
    return {"prompts": drawn, "lengths": 1 + torch.arange(6) % 3, "row": torch.arange(6) + 6 * number}


@KINDS
def test_a_step_is_its_three_parts(kind: object) -> None:
    made = make(kind)
    state = made.init(random.key(0))
    apart = made.parts
    assert isinstance(apart, Online)
    rollouts, rewards = generate_and_score(state, prompts(0), parts=apart)
    assert same_bits(apart.update(state, rollouts, rewards), made.step(state, prompts(0)))
    assert set(policy_of(state.params)) >= {"embedding", "layers"}


@KINDS
def test_killed_and_resumed_it_samples_the_same_completions(kind: object) -> None:
    """Rollouts included: the same key gives the same answers, so the same bits."""
    made = make(kind)
    batches = [prompts(i) for i in range(4)]
    whole = functools.reduce(made.step, batches, made.init(random.key(3)))
    half = functools.reduce(made.step, batches[:2], made.init(random.key(3)))
    back = serial.from_bytes(made.init(random.key(9)), serial.to_bytes(half))
    assert same_bits(functools.reduce(made.step, batches[2:], back), whole)


@KINDS
def test_it_keeps_structure_and_arguments(kind: object) -> None:
    made = make(kind)
    state, batch = made.init(random.key(0)), prompts(0)
    before = tree.clone(state), tree.clone(batch)
    after = made.step(state, batch)
    assert same_bits(before[0], state)
    assert same_bits(before[1], batch)
    assert tree.structure(after) == tree.structure(state)
    assert int(after.step) == 1
    assert torch.equal(after.key, state.key)


@KINDS
def test_compiled_by_regions_it_samples_and_updates_the_same(kind: object) -> None:
    made = make(kind)
    step = jit(made.step, donate=True, regions=True, backend="aot_eager")
    state = made.init(random.key(0))
    given = tree.clone(state)
    for number in range(2):
        state, given = made.step(state, prompts(number)), step(given, prompts(number))
    for path, a, b in zip(
        tree.paths(state.params), *(tree.leaves(s.params) for s in (state, given)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, path=path: f"{path}: {m}")


@KINDS
def test_the_reward_rises(kind: object) -> None:
    made = make(kind, samples=8)
    state = made.init(random.key(0))
    first = made.step(state, prompts(0)).metrics["reward"]
    state = functools.reduce(made.step, [prompts(i) for i in range(25)], state)
    assert state.metrics["reward"] > first + 0.15
    assert state.metrics["sampling/sampling_logp_difference/mean"] < 1e-5


@KINDS
def test_equal_rewards_teach_nothing_and_say_so(kind: object) -> None:
    made = make(kind, score=lambda rollouts: torch.ones(len(rollouts.row), 1))
    state = made.init(random.key(0))
    after = made.step(state, prompts(0))
    assert after.metrics["frac_reward_zero_std"] == 1
    if kind is grpo:
        assert after.metrics["grad_norm"] == 0
        assert same_bits(after.params, state.params)


@KINDS
def test_unscored_completions_are_left_out(kind: object) -> None:
    def half(rollouts: Rollouts) -> torch.Tensor:
        found = evens(rollouts)
        found[::2] = math.nan
        return found

    made = make(kind, score=half)
    after = made.step(made.init(random.key(0)), prompts(0))
    assert after.metrics["frac_unjudged"] == 0.5
    assert all(x.isfinite().all() for x in tree.leaves(after.params))
    nothing = make(kind, score=lambda rollouts: torch.full((len(rollouts.row), 1), math.nan))
    after = nothing.step(nothing.init(random.key(0)), prompts(0))
    assert all(x.isfinite().all() for x in tree.leaves(after.params))
    assert after.metrics["loss"] == 0


@KINDS
def test_several_rewards_are_weighted_and_reported_separately(kind: object) -> None:
    def two(rollouts: Rollouts) -> torch.Tensor:
        return torch.cat([evens(rollouts), torch.ones(len(rollouts.row), 1)], 1)

    made = make(kind, score=two, rewards=("even", "one"), weights=(1.0, 0.5))
    metrics = made.step(made.init(random.key(0)), prompts(0)).metrics
    torch.testing.assert_close(metrics["reward"], metrics["rewards/even/mean"] + 0.5)
    assert metrics["rewards/one/mean"] == 1


@KINDS
def test_a_missing_reward_is_ignored_and_the_others_count(kind: object) -> None:
    def two(rollouts: Rollouts) -> torch.Tensor:
        second = torch.ones(len(rollouts.row), 1)
        second[::4] = math.nan
        return torch.cat([evens(rollouts), second], 1)

    made = make(kind, score=two, rewards=("even", "some"), weights=(1.0, 2.0))
    metrics = made.step(made.init(random.key(0)), prompts(0)).metrics
    assert metrics["frac_unjudged"] == 0
    assert metrics["rewards/even/missing"] == 0
    assert metrics["rewards/some/missing"] == 0.25
    torch.testing.assert_close(metrics["reward"], metrics["rewards/even/mean"] + 2 * 0.75)


@KINDS
def test_truncated_answers_are_masked_and_still_reported(kind: object) -> None:
    plain, masked = make(kind), make(kind, mask_truncated=True)
    state = plain.init(random.key(0))
    rollouts, rewards = generate_and_score(state, prompts(0), parts=plain.parts)
    assert 0 < rollouts.ended.sum() < len(rollouts.ended)
    before, after = (made.parts.update(state, rollouts, rewards) for made in (plain, masked))
    for name in ("reward", "completions/mean_length", "completions/clipped_ratio", "frac_unjudged"):
        assert before.metrics[name] == after.metrics[name]
    assert not same_bits(before.params, after.params)
    other = rewards.clone() if kind is grpo else torch.where(rollouts.ended[:, None], rewards, 9.0)
    tokens = torch.where(rollouts.ended[:, None], rollouts.tokens, rollouts.tokens.roll(1, 1))
    assert same_bits(after.params, masked.parts.update(state, rollouts._replace(tokens=tokens), other).params)
    cut = rollouts._replace(ended=torch.zeros_like(rollouts.ended))
    assert same_bits(masked.parts.update(state, cut, rewards).params, state.params)


@KINDS
def test_truncated_sampling_leaves_the_first_ratio_at_one(kind: object) -> None:
    """Log-probabilities are those of the whole distribution at the temperature, as the loss computes them."""
    once = {"epochs": 1} if kind is ppo else {}
    for options in ({"top_p": 0.6}, {"top_k": 3, "temperature": 0.7}, {"top_p": 0.9}, {"min_p": 0.05}):
        sampling, mask_truncated = SAMPLING._replace(**options), options == {"top_p": 0.9}
        made = make(kind, sampling=sampling, mask_truncated=mask_truncated, **once)
        metrics = made.step(made.init(random.key(0)), prompts(0)).metrics
        assert metrics["approx_kl"].abs() < 1e-6
        assert metrics["clip_ratio/region_mean"] == 0
        assert metrics["sampling/sampling_logp_difference/mean"] < 1e-5


def test_weights_are_one_a_reward() -> None:
    with pytest.raises(ValueError, match="expected 1 weights, one for each reward, got 2"):
        make(grpo, weights=(1.0, 2.0)).step(make(grpo).init(random.key(0)), prompts(0))


def test_metrics_of_rewards_by_hand() -> None:
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    rollouts = Rollouts(
        torch.zeros(4, 3).long(),
        torch.zeros(4).long(),
        mask,
        torch.zeros(4, 2),
        torch.tensor([True, True, False, False]),
        torch.tensor([0, 0, 1, 1]),
    )
    rewards = torch.tensor([[0.0], [1.0], [2.0], [2.0]])
    found = reward_metrics(rollouts, rewards, rewards.unflatten(0, (2, 2))[..., 0], ("mine",))
    expected = {
        "reward": 1.25,
        "reward_std": math.sqrt(0.5) / 2,
        "frac_reward_zero_std": 0.5,
        "frac_unjudged": 0.0,
        "completions/mean_length": 1.75,
        "completions/clipped_ratio": 0.5,
        "rewards/mine/mean": 1.25,
        "rewards/mine/missing": 0.0,
    }
    assert {name: pytest.approx(x.item(), abs=1e-6) for name, x in found.items()} == expected


def test_metrics_of_large_rewards_do_not_overflow() -> None:
    groups = torch.tensor([[3e38, 3e38], [1e38, 3e38]])
    rollouts = Rollouts(*(torch.ones(4, 2).long() for _ in Rollouts._fields))
    found = reward_metrics(rollouts, groups.view(4, 1), groups, ("a",))
    assert found["reward"].item() == found["rewards/a/mean"].item() == pytest.approx(2.5e38)
    assert found["reward_std"].item() == pytest.approx(2e38 / 2**0.5 / 2)


def test_other_stages_have_no_parts() -> None:
    made = make_own()
    assert made.parts is None
    with pytest.raises(ValueError, match="made by grpo or ppo"):
        generate_and_score(made.init(random.key(0)), prompts(0), parts=made.parts)


def test_rewards_are_added_by_weight_over_those_that_there_are() -> None:
    rewards = torch.tensor(
        [[0.1, 0.2], [0.3, 0.0], [torch.nan, 0.3], [torch.nan, torch.nan], [torch.inf, 1.0]]
    )
    found = weighted_sum(rewards, None)
    assert found[0] == found[1] == found[2]
    assert found[3].isnan()
    assert found[4] == 1.0
    many = torch.full((37, 5), 0.1)
    assert (
        weighted_sum(many, (0.1, 0.7, 0.3, 1.0, 2.0)) == weighted_sum(many[:1], (0.1, 0.7, 0.3, 1.0, 2.0))
    ).all()
    with pytest.raises(ValueError, match="expected 2 weights, one for each reward, got 1"):
        weighted_sum(rewards, (1.0,))
