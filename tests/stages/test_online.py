"""A step of GRPO and PPO: its parts, composed and one by one, and the metrics of rewards."""

from __future__ import annotations

import functools
import math
from functools import partial

import pytest
import torch

from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.loss.grpo import CLIPS
from pure.loss.importance import IMPORTANCE_METRICS
from pure.loss.log_probability import linear_log_probabilities
from pure.nn.transformer import transformer
from pure.serial import serial
from pure.transform.jit import jit
from pure.types import Tree
from stages.grpo import grpo
from stages.online import Online, generate_and_score, policy_of, reward_metrics, weighted_sum
from stages.population import population
from stages.ppo import ppo
from stages.rollout import Rollouts, completion_log_probabilities, rollout
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


def even_share(rollouts: Rollouts) -> torch.Tensor:
    """Reward: the share of even tokens in a completion."""
    even = (rollouts.tokens[:, -rollouts.mask.shape[1] :] % 2 == 0) & rollouts.mask
    return (even.sum(1) / rollouts.mask.sum(1).clamp(min=1))[:, None]


def make_stage(kind: object, score: object = even_share, **changes: object) -> Stage:
    return kind(MODEL, optim.adam(1e-2), score=score, **(OPTIONS | changes))


def prompt_batch(number: int) -> Tree:
    ids = random.randint(random.key(500 + number), (6, 3), 2, VOCABULARY).long()
    return {"prompts": ids, "lengths": 1 + torch.arange(6) % 3, "row": torch.arange(6) + 6 * number}


@KINDS
def test_a_step_equals_its_parts_composed(kind: object) -> None:
    a_stage = make_stage(kind)
    state = a_stage.init(random.key(0))
    parts = a_stage.parts
    assert isinstance(parts, Online)
    rollouts, rewards = generate_and_score(state, prompt_batch(0), parts=parts)
    assert same_bits(parts.update(state, rollouts, rewards), a_stage.step(state, prompt_batch(0)))
    assert set(policy_of(state.params)) >= {"embedding", "layers"}


@KINDS
def test_a_resumed_run_samples_the_same_completions(kind: object) -> None:
    """The same key gives the same completions, so the same bits."""
    a_stage = make_stage(kind)
    batches = [prompt_batch(i) for i in range(4)]
    whole = functools.reduce(a_stage.step, batches, a_stage.init(random.key(3)))
    half = functools.reduce(a_stage.step, batches[:2], a_stage.init(random.key(3)))
    resumed = serial.from_bytes(a_stage.init(random.key(9)), serial.to_bytes(half))
    assert same_bits(functools.reduce(a_stage.step, batches[2:], resumed), whole)


@KINDS
def test_a_step_keeps_the_structure_and_its_arguments(kind: object) -> None:
    a_stage = make_stage(kind)
    state, batch = a_stage.init(random.key(0)), prompt_batch(0)
    before = tree.clone(state), tree.clone(batch)
    after = a_stage.step(state, batch)
    assert same_bits(before[0], state)
    assert same_bits(before[1], batch)
    assert tree.structure(after) == tree.structure(state)
    assert int(after.step) == 1
    assert torch.equal(after.key, state.key)


@KINDS
def test_a_step_compiled_by_regions_equals_the_eager_step(kind: object) -> None:
    a_stage = make_stage(kind)
    step = jit(a_stage.step, donate=True, regions=True, backend="aot_eager")
    state = a_stage.init(random.key(0))
    compiled = tree.clone(state)
    for number in range(2):
        state, compiled = a_stage.step(state, prompt_batch(number)), step(compiled, prompt_batch(number))
    for path, a, b in zip(
        tree.paths(state.params), *(tree.leaves(s.params) for s in (state, compiled)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, path=path: f"{path}: {m}")


@KINDS
def test_the_reward_rises(kind: object) -> None:
    a_stage = make_stage(kind, samples=8)
    state = a_stage.init(random.key(0))
    first = a_stage.step(state, prompt_batch(0)).metrics["reward"]
    state = functools.reduce(a_stage.step, [prompt_batch(i) for i in range(25)], state)
    assert state.metrics["reward"] > first + 0.15
    assert state.metrics["sampling/sampling_logp_difference/mean"] < 1e-5


@KINDS
def test_equal_rewards_are_reported_and_give_grpo_no_gradient(kind: object) -> None:
    a_stage = make_stage(kind, score=lambda rollouts: torch.ones(len(rollouts.row), 1))
    state = a_stage.init(random.key(0))
    after = a_stage.step(state, prompt_batch(0))
    assert after.metrics["frac_reward_zero_std"] == 1
    if kind is grpo:
        assert after.metrics["grad_norm"] == 0
        assert same_bits(after.params, state.params)


@KINDS
def test_unscored_completions_are_left_out(kind: object) -> None:
    def half(rollouts: Rollouts) -> torch.Tensor:
        found = even_share(rollouts)
        found[::2] = math.nan
        return found

    a_stage = make_stage(kind, score=half)
    after = a_stage.step(a_stage.init(random.key(0)), prompt_batch(0))
    assert after.metrics["frac_unjudged"] == 0.5
    assert all(x.isfinite().all() for x in tree.leaves(after.params))
    nothing = make_stage(kind, score=lambda rollouts: torch.full((len(rollouts.row), 1), math.nan))
    after = nothing.step(nothing.init(random.key(0)), prompt_batch(0))
    assert all(x.isfinite().all() for x in tree.leaves(after.params))
    assert after.metrics["loss"] == 0


@KINDS
def test_several_rewards_are_weighted_and_reported_separately(kind: object) -> None:
    def two_rewards(rollouts: Rollouts) -> torch.Tensor:
        return torch.cat([even_share(rollouts), torch.ones(len(rollouts.row), 1)], 1)

    a_stage = make_stage(kind, score=two_rewards, rewards=("even", "one"), weights=(1.0, 0.5))
    metrics = a_stage.step(a_stage.init(random.key(0)), prompt_batch(0)).metrics
    torch.testing.assert_close(metrics["reward"], metrics["rewards/even/mean"] + 0.5)
    assert metrics["rewards/one/mean"] == 1


@KINDS
def test_a_missing_reward_is_ignored_and_the_others_count(kind: object) -> None:
    def two_rewards(rollouts: Rollouts) -> torch.Tensor:
        second = torch.ones(len(rollouts.row), 1)
        second[::4] = math.nan
        return torch.cat([even_share(rollouts), second], 1)

    a_stage = make_stage(kind, score=two_rewards, rewards=("even", "some"), weights=(1.0, 2.0))
    metrics = a_stage.step(a_stage.init(random.key(0)), prompt_batch(0)).metrics
    assert metrics["frac_unjudged"] == 0
    assert metrics["rewards/even/missing"] == 0
    assert metrics["rewards/some/missing"] == 0.25
    torch.testing.assert_close(metrics["reward"], metrics["rewards/even/mean"] + 2 * 0.75)


@KINDS
def test_truncated_completions_are_masked_and_still_reported(kind: object) -> None:
    plain, masked = make_stage(kind), make_stage(kind, mask_truncated=True)
    state = plain.init(random.key(0))
    rollouts, rewards = generate_and_score(state, prompt_batch(0), parts=plain.parts)
    assert 0 < rollouts.ended.sum() < len(rollouts.ended)
    before, after = (a_stage.parts.update(state, rollouts, rewards) for a_stage in (plain, masked))
    for name in ("reward", "completions/mean_length", "completions/clipped_ratio", "frac_unjudged"):
        assert before.metrics[name] == after.metrics[name]
    assert not same_bits(before.params, after.params)
    other = rewards.clone() if kind is grpo else torch.where(rollouts.ended[:, None], rewards, 9.0)
    tokens = torch.where(rollouts.ended[:, None], rollouts.tokens, rollouts.tokens.roll(1, 1))
    assert same_bits(after.params, masked.parts.update(state, rollouts._replace(tokens=tokens), other).params)
    cut = rollouts._replace(ended=torch.zeros_like(rollouts.ended))
    assert same_bits(masked.parts.update(state, cut, rewards).params, state.params)


@KINDS
def test_top_p_top_k_and_min_p_leave_the_first_ratio_at_one(kind: object) -> None:
    """Log-probabilities are those of the whole distribution at the temperature, as the loss computes them."""
    once = {"epochs": 1} if kind is ppo else {}
    for options in ({"top_p": 0.6}, {"top_k": 3, "temperature": 0.7}, {"top_p": 0.9}, {"min_p": 0.05}):
        sampling, mask_truncated = SAMPLING._replace(**options), options == {"top_p": 0.9}
        a_stage = make_stage(kind, sampling=sampling, mask_truncated=mask_truncated, **once)
        metrics = a_stage.step(a_stage.init(random.key(0)), prompt_batch(0)).metrics
        assert metrics["approx_kl"].abs() < 1e-6
        assert metrics["clip_ratio/region_mean"] == 0
        assert metrics["sampling/sampling_logp_difference/mean"] < 1e-5


def sample_elsewhere(params: Tree, batch: Tree, key: torch.Tensor, *, factor: float) -> Rollouts:
    """Sample as the stages do, by a sampler that reports `factor` times the probability of each token."""
    rollouts = rollout(MODEL, params, batch, key, **OPTIONS)
    return rollouts._replace(logps=torch.where(rollouts.mask, rollouts.logps + math.log(factor), 0.0))


@KINDS
def test_another_sampler_takes_the_place_of_ours(kind: object) -> None:
    ours, given = make_stage(kind), make_stage(kind, rollout=partial(sample_elsewhere, factor=1.0))
    state = ours.init(random.key(0))
    assert same_bits(ours.step(state, prompt_batch(0)), given.step(state, prompt_batch(0)))


WEIGHTED = [
    *[(grpo, {"variant": variant}) for variant in CLIPS],
    (grpo, {"iterations": 2}),
    (ppo, {"epochs": 1, "value_weight": 0.0}),
]


@pytest.mark.parametrize(("kind", "options"), WEIGHTED, ids=lambda x: getattr(x, "__name__", str(x)))
def test_importance_weights_multiply_the_gradient_of_the_policy(kind: object, options: dict) -> None:
    """Every token is reported half as likely as it is, so that its weight is the cap of 1.5, or 2."""
    options = {"clip_low": 0.2, "clip_high": 0.2} | options if kind is grpo else options
    half = partial(sample_elsewhere, factor=0.5)
    make = partial(kind, MODEL, optim.sgd(1e-3), score=even_share, **OPTIONS, **options)
    start = make(rollout=half).init(random.key(0))
    plain, capped, uncapped = (
        make(rollout=half, importance_cap=cap).step(make(rollout=half).init(random.key(0)), prompt_batch(0))
        for cap in (None, 1.5, 2.5)
    )
    mean, share = (capped.metrics[name] for name in IMPORTANCE_METRICS)
    torch.testing.assert_close((mean, share), (torch.tensor(1.5), torch.tensor(1.0)))
    if options.get("variant") not in ("gspo", "rloo"):
        torch.testing.assert_close(uncapped.metrics[IMPORTANCE_METRICS[0]], torch.tensor(2.0))
        assert uncapped.metrics[IMPORTANCE_METRICS[1]] == 0
    assert not set(IMPORTANCE_METRICS) & set(plain.metrics)
    trees = (policy_of(x.params) for x in (start, plain, capped))
    for before, x, y in zip(*map(tree.leaves, trees), strict=True):
        torch.testing.assert_close(y - before, 1.5 * (x - before), rtol=2e-2, atol=2e-7)


@KINDS
def test_recorded_rollouts_with_importance_weights_repeat_the_step(kind: object) -> None:
    """The ratio is to the policy before the update, as it was online, not to the sampler."""
    options = {"importance_cap": 2.0, "rollout": partial(sample_elsewhere, factor=0.7)}
    online = make_stage(kind, **options)
    state = online.init(random.key(0))
    rollouts, rewards = generate_and_score(state, prompt_batch(0), parts=online.parts)
    again = make_stage(kind, score=None, **options).step(state, {**rollouts._asdict(), "rewards": rewards})
    after = online.step(state, prompt_batch(0))
    assert after.metrics[IMPORTANCE_METRICS[0]] > 1.4
    for x, y in zip(tree.leaves(after.params), tree.leaves(again.params), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@KINDS
def test_a_sampler_with_another_number_of_samples_is_refused(kind: object) -> None:
    fewer = partial(rollout, MODEL, samples=2, sampling=SAMPLING)
    stage = make_stage(kind, rollout=fewer)
    with pytest.raises(ValueError, match="expected 4 completions of each of 6 prompts, 24 rows, got 12"):
        stage.step(stage.init(random.key(0)), prompt_batch(0))


@KINDS
def test_importance_weights_of_a_truncated_sampler_are_refused(kind: object) -> None:
    elsewhere = partial(sample_elsewhere, factor=1.0)
    sampling = SAMPLING._replace(top_k=3, min_p=0.1)
    with pytest.raises(ValueError, match="leave out top_k, min_p, or importance_cap"):
        make_stage(kind, rollout=elsewhere, importance_cap=2.0, sampling=sampling)
    make_stage(kind, rollout=elsewhere, sampling=sampling)
    make_stage(kind, importance_cap=2.0, sampling=sampling)
    with pytest.raises(ValueError, match="importance_cap must be above 0, got 0"):
        make_stage(kind, importance_cap=0.0)


def test_the_number_of_weights_must_be_that_of_the_rewards() -> None:
    with pytest.raises(ValueError, match="expected 1 weight, one for each reward, got 2"):
        make_stage(grpo, weights=(1.0, 2.0)).step(make_stage(grpo).init(random.key(0)), prompt_batch(0))


def test_reward_metrics_equal_values_by_hand() -> None:
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


def test_reward_metrics_of_large_rewards_do_not_overflow() -> None:
    groups = torch.tensor([[3e38, 3e38], [1e38, 3e38]])
    rollouts = Rollouts(*(torch.ones(4, 2).long() for _ in Rollouts._fields))
    found = reward_metrics(rollouts, groups.view(4, 1), groups, ("a",))
    assert found["reward"].item() == found["rewards/a/mean"].item() == pytest.approx(2.5e38)
    assert found["reward_std"].item() == pytest.approx(2e38 / 2**0.5 / 2)


def test_stages_without_sampling_have_no_parts() -> None:
    a_stage = make_own()
    assert a_stage.parts is None
    with pytest.raises(ValueError, match="made by grpo or ppo"):
        generate_and_score(a_stage.init(random.key(0)), prompt_batch(0), parts=a_stage.parts)


def test_weighted_sum_leaves_out_missing_rewards() -> None:
    rewards = torch.tensor(
        [[0.1, 0.2], [0.3, 0.0], [torch.nan, 0.3], [torch.nan, torch.nan], [torch.inf, 1.0]]
    )
    found = weighted_sum(rewards, None)
    assert found[0] == found[1] == found[2]
    assert found[3].isnan()
    assert found[4] == 1.0
    equal_rows, weights = torch.full((37, 5), 0.1), (0.1, 0.7, 0.3, 1.0, 2.0)
    assert (weighted_sum(equal_rows, weights) == weighted_sum(equal_rows[:1], weights)).all()
    with pytest.raises(ValueError, match="expected 2 weights, one for each reward, got 1"):
        weighted_sum(rewards, (1.0,))


@KINDS
@pytest.mark.parametrize("shared", [True, False])
def test_a_population_samples_and_updates_as_its_members_do_alone(kind: object, shared: bool) -> None:
    # Adam divides a gradient that is mere rounding by its own size, unless eps is above it.
    made = kind(MODEL, optim.adam(1e-2, eps=1e-5), score=even_share, **OPTIONS)
    members = population(made, 2, shared_batch=shared)
    state = members.init(random.key(5))
    batches = [prompt_batch(0), prompt_batch(0 if shared else 1)]
    after = members.step(state, batches[0] if shared else tree.stack(batches))
    for number, member in enumerate(tree.unstack(after)):
        alone = made.step(made.init(random.split(random.key(5), 2)[number]), batches[number])
        for x, y in zip(tree.leaves(member), tree.leaves(alone), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=3e-6, equal_nan=True)
