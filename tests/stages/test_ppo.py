"""PPO's stage: advantages per token, the value function, minibatches, and the adaptive KL coefficient."""

from __future__ import annotations

import functools
from functools import partial

import pytest
import torch

from pure import optim, random, tree
from pure.nn.scalar import scalar_model
from pure.nn.transformer import transformer
from stages.experience import experience
from stages.online import generate_and_score
from stages.ppo import ppo
from stages.rollout import completion_states
from tests.laws.test_stages import same_bits, small
from tests.stages.test_online import LOGPS_FN, OPTIONS, even_share, make_stage, policy_logps, prompt_batch

MODEL = transformer(small(max_position_embeddings=32))


def test_the_value_function_starts_as_a_copy_of_the_policy() -> None:
    start = MODEL.init(random.key(1))
    state = make_stage(ppo).init(random.key(0), start)
    assert same_bits(state.params["policy"], start)
    assert same_bits(state.params["value"]["model"], start)
    addresses = [x.data_ptr() for x in tree.leaves(state.params)]
    assert len(set(addresses)) == len(addresses)


def test_the_reward_is_at_the_last_token_and_the_kl_penalty_at_each() -> None:
    """With λ = γ = 1 and values of 0, the return of a token is the sum of all later rewards and penalties."""
    reference = MODEL.init(random.key(9))
    a_stage = ppo(MODEL, optim.sgd(0.0), score=even_share, reference=reference, beta=0.3, lam=1.0, **OPTIONS)
    state = a_stage.init(random.key(0))
    state.params["value"]["score"].zero_()
    rollouts, rewards = generate_and_score(state, prompt_batch(0), parts=a_stage.parts)
    batch, metrics = experience(
        state.params,
        rollouts,
        rewards[:, 0],
        state.extra["kl_coefficient"],
        logps_fn=LOGPS_FN,
        values_fn=partial(completion_states, scalar_model(MODEL).score),
        gamma=1.0,
        lam=1.0,
        reference=reference,
        compute=torch.float32,
        offline=False,
        mask_truncated=False,
    )
    distance = policy_logps(state.params["policy"], rollouts) - policy_logps(reference, rollouts)
    kl_to_come = torch.where(rollouts.mask, distance, 0.0).flip(1).cumsum(1).flip(1)
    expected = torch.where(rollouts.mask, rewards - 0.3 * kl_to_come, 0.0)
    torch.testing.assert_close(batch["returns"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["kl"], kl_to_come[:, 0].mean())
    advantages = batch["advantages"][rollouts.mask]
    assert abs(advantages.mean().item()) < 1e-5
    assert advantages.std().item() == pytest.approx(1, abs=1e-4)


def test_the_value_function_learns_to_predict_the_reward() -> None:
    """Its error falls, and the mean value comes near the mean reward."""
    a_stage = make_stage(ppo, value_weight=1.0, epochs=4, samples=8)
    states = [a_stage.init(random.key(0))]
    for number in range(12):
        states.append(a_stage.step(states[-1], prompt_batch(number)))
    first, last = states[1].metrics, states[-1].metrics
    assert last["value_loss"] < first["value_loss"] / 5
    assert abs(last["values/mean"] - last["reward"]) < 0.1 < abs(first["values/mean"] - first["reward"])


@pytest.mark.parametrize("target", [1e-4, 1e4])
def test_the_kl_coefficient_is_adapted_to_its_target(target: float) -> None:
    start = MODEL.init(random.key(1))
    a_stage = ppo(
        MODEL,
        optim.adam(1e-2),
        score=even_share,
        reference=start,
        beta=0.1,
        target_kl=target,
        horizon=100,
        **OPTIONS,
    )
    state = functools.reduce(
        a_stage.step, [prompt_batch(i) for i in range(12)], a_stage.init(random.key(0), start)
    )
    assert (state.extra["kl_coefficient"] > 0.1) == (target < 1)
    assert state.metrics["kl"] > 0


def test_minibatches_use_every_completion_once_an_epoch() -> None:
    """With SGD and a tiny rate, two halves move the params like two steps on the whole batch."""
    movements = []
    for options in ({"epochs": 1, "minibatches": 2}, {"epochs": 2, "minibatches": 1}):
        a_stage = ppo(MODEL, optim.sgd(1e-4), score=even_share, **OPTIONS, **options)
        state = a_stage.init(random.key(0))
        after = a_stage.step(state, prompt_batch(0))
        assert int(after.step) == 1
        pairs = zip(tree.leaves(after.params), tree.leaves(state.params), strict=True)
        movements.append(torch.cat([(new - old).flatten() for new, old in pairs]))
    assert torch.nn.functional.cosine_similarity(*movements, dim=0) > 0.98


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_stage(ppo, epochs=0)


def test_the_first_update_is_at_a_ratio_of_exactly_one() -> None:
    a_stage = make_stage(ppo, epochs=1)
    metrics = a_stage.step(a_stage.init(random.key(0)), prompt_batch(0)).metrics
    assert (metrics["approx_kl"], metrics["clip_ratio/region_mean"]) == (0, 0)


@pytest.mark.parametrize("minibatches", [1, 3])
def test_a_batch_without_scores_is_skipped_and_named(minibatches: int) -> None:
    a_stage = make_stage(
        ppo, score=lambda rollouts: torch.full((len(rollouts.mask), 1), torch.nan), minibatches=minibatches
    )
    state = a_stage.init(random.key(0))
    after = a_stage.step(state, prompt_batch(0))
    assert same_bits((after.params, after.opt_state), (state.params, state.opt_state))
    assert after.metrics["nonfinite_leaf"] == len(tree.leaves(state.params)) + 1
