"""PPO's stage: advantages per token, the value function, minibatches, and the adaptive KL coefficient."""

from __future__ import annotations

import functools
from functools import partial

import pytest
import torch

from pure import optim, random, tree
from pure.nn.scalar import scalar_model
from pure.nn.transformer import transformer
from stages.online import generate_and_score
from stages.ppo import experience, ppo
from stages.rollout import completion_states
from tests.laws.test_stages import same_bits, small
from tests.stages.test_online import LOGPS_FN, OPTIONS, evens, make, policy_logps, prompts

MODEL = transformer(small(max_position_embeddings=32))


def test_the_value_function_starts_as_a_copy_of_the_policy() -> None:
    start = MODEL.init(random.key(1))
    state = make(ppo).init(random.key(0), start)
    assert same_bits(state.params["policy"], start)
    assert same_bits(state.params["value"]["model"], start)
    places = [x.data_ptr() for x in tree.leaves(state.params)]
    assert len(set(places)) == len(places)


def test_the_reward_stands_at_the_last_token_and_the_divergence_at_each() -> None:
    """λ = γ = 1 and a value function that says 0: the return of a token is all that is still to come."""
    reference = MODEL.init(random.key(9))
    made = ppo(MODEL, optim.sgd(0.0), score=evens, reference=reference, beta=0.3, lam=1.0, **OPTIONS)
    state = made.init(random.key(0))
    state.params["value"]["score"].zero_()
    rollouts, rewards = generate_and_score(state, prompts(0), parts=made.parts)
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
    )
    distance = policy_logps(state.params["policy"], rollouts) - policy_logps(reference, rollouts)
    ahead = torch.where(rollouts.mask, distance, 0.0).flip(1).cumsum(1).flip(1)
    expected = torch.where(rollouts.mask, rewards - 0.3 * ahead, 0.0)
    torch.testing.assert_close(batch["returns"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["kl"], ahead[:, 0].mean())
    kept = batch["advantages"][rollouts.mask]
    assert abs(kept.mean().item()) < 1e-5
    assert kept.std().item() == pytest.approx(1, abs=1e-4)


def test_the_value_function_learns_to_foresee() -> None:
    """Its error falls, and what it says comes near what is then received."""
    made = make(ppo, value_weight=1.0, epochs=4, samples=8)
    states = [made.init(random.key(0))]
    for number in range(12):
        states.append(made.step(states[-1], prompts(number)))
    first, last = states[1].metrics, states[-1].metrics
    assert last["value_loss"] < first["value_loss"] / 5
    assert abs(last["values/mean"] - last["reward"]) < 0.1 < abs(first["values/mean"] - first["reward"])


@pytest.mark.parametrize("target", [1e-4, 1e4])
def test_the_kl_coefficient_is_adapted_to_its_target(target: float) -> None:
    start = MODEL.init(random.key(1))
    made = ppo(
        MODEL,
        optim.adam(1e-2),
        score=evens,
        reference=start,
        beta=0.1,
        target_kl=target,
        horizon=100,
        **OPTIONS,
    )
    state = functools.reduce(made.step, [prompts(i) for i in range(12)], made.init(random.key(0), start))
    assert (state.extra["kl_coefficient"] > 0.1) == (target < 1)
    assert state.metrics["kl"] > 0


def test_minibatches_use_every_answer_once_an_epoch() -> None:
    """With plain descent and a tiny rate, two halves move the params as far as the whole did twice."""
    moved = []
    for options in ({"epochs": 1, "minibatches": 2}, {"epochs": 2, "minibatches": 1}):
        made = ppo(MODEL, optim.sgd(1e-4), score=evens, **OPTIONS, **options)
        state = made.init(random.key(0))
        after = made.step(state, prompts(0))
        assert int(after.step) == 1
        moved.append(
            torch.cat(
                [
                    (a - b).flatten()
                    for a, b in zip(*map(tree.leaves, (after.params, state.params)), strict=True)
                ]
            )
        )
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.98


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make(ppo, epochs=0)


def test_the_first_update_is_at_a_ratio_of_exactly_one() -> None:
    made = make(ppo, epochs=1)
    metrics = made.step(made.init(random.key(0)), prompts(0)).metrics
    assert (metrics["approx_kl"], metrics["clip_ratio/region_mean"]) == (0, 0)


@pytest.mark.parametrize("minibatches", [1, 3])
def test_a_batch_without_scores_is_skipped_and_named(minibatches: int) -> None:
    made = make(
        ppo, score=lambda rollouts: torch.full((len(rollouts.mask), 1), torch.nan), minibatches=minibatches
    )
    state = made.init(random.key(0))
    after = made.step(state, prompts(0))
    assert same_bits((after.params, after.opt_state), (state.params, state.opt_state))
    assert after.metrics["nonfinite_leaf"] == len(tree.leaves(state.params)) + 1
