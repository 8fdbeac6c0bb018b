"""GRPO's stage: ratios to the behaviour policy, references, variants, per-completion gradients."""

from __future__ import annotations

import functools

import pytest
import torch

from pure import optim, random, tree
from pure.loss.advantages import group_advantages
from pure.loss.grpo import CLIPS
from pure.nn.transformer import transformer
from pure.transform.per_sample import per_sample_grad
from stages.grpo import SCALES, grpo
from stages.online import generate_and_score
from stages.rollout import Rollouts
from tests.laws.test_stages import same_bits, small
from tests.stages.test_online import OPTIONS, SAMPLING, even_share, make_stage, policy_logps, prompt_batch


@pytest.mark.parametrize("variant", CLIPS)
def test_every_variant_has_a_finite_loss_and_a_gradient(variant: str) -> None:
    a_stage = make_stage(
        grpo, variant=variant, clip_low=0.2, clip_high=0.2, scale="none" if variant == "dr_grpo" else "group"
    )
    state = a_stage.init(random.key(0))
    after = a_stage.step(state, prompt_batch(0))
    assert after.metrics["grad_norm"] > 0
    assert after.metrics["loss"].isfinite()


def test_on_fresh_completions_the_ratio_is_one_and_nothing_is_clipped() -> None:
    metrics = make_stage(grpo).step(make_stage(grpo).init(random.key(0)), prompt_batch(0)).metrics
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["approx_kl"].abs() < 1e-6


def test_ids_beyond_the_vocabulary_are_not_sampled_and_the_ratio_is_one() -> None:
    a_stage = make_stage(grpo, sampling=SAMPLING._replace(vocabulary=9))
    state = a_stage.init(random.key(0))
    sampled, _ = generate_and_score(state, prompt_batch(0), parts=a_stage.parts)
    assert sampled.tokens[:, -sampled.mask.shape[1] :][sampled.mask].max() < 9
    metrics = a_stage.step(state, prompt_batch(0)).metrics
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["approx_kl"].abs() < 1e-6


def test_later_iterations_take_the_ratio_to_the_behaviour_policy() -> None:
    a_stage = make_stage(grpo, iterations=3)
    metrics = a_stage.step(a_stage.init(random.key(0)), prompt_batch(0)).metrics
    assert metrics["approx_kl"] > 1e-6


def test_the_kl_penalty_keeps_the_policy_near_the_reference() -> None:
    model = transformer(small(max_position_embeddings=32))
    start = model.init(random.key(1))
    ends = []
    for beta in (0.0, 5.0):
        a_stage = grpo(
            model, optim.adam(3e-3), score=even_share, reference=start, beta=beta, kl="k3+", **OPTIONS
        )
        state = functools.reduce(
            a_stage.step, [prompt_batch(i) for i in range(15)], a_stage.init(random.key(0), start)
        )
        ends.append(state.metrics["kl"].item())
    assert 0 < ends[1] < ends[0] / 2


def test_groups_given_as_a_batch_have_the_gradient_of_sampled_ones() -> None:
    """Equal but for the rounding of the sampler's log-probabilities."""
    online = make_stage(grpo)
    state = online.init(random.key(0))
    rollouts, rewards = generate_and_score(state, prompt_batch(0), parts=online.parts)
    offline = make_stage(grpo, score=None)
    after = offline.step(state, {**rollouts._asdict(), "rewards": rewards})
    torch.testing.assert_close(
        after.metrics["grad_norm"],
        online.step(state, prompt_batch(0)).metrics["grad_norm"],
        rtol=1e-4,
        atol=1e-6,
    )


def test_gradients_of_completions_add_up_to_that_of_the_batch() -> None:
    """Each completion is a group of one here; its advantage was computed in its real group before."""
    a_stage = make_stage(grpo)
    state = a_stage.init(random.key(0))
    rollouts, rewards = generate_and_score(state, prompt_batch(0), parts=a_stage.parts)
    advantages = group_advantages(rewards[:, 0].unflatten(0, (-1, 4))).flatten()
    batch = tree.map(lambda x: x[:, None], {**rollouts._asdict(), "advantages": advantages})
    single = per_sample_grad(a_stage.loss)(state.params, batch, state.key)
    whole = tree.map(lambda x: x.unflatten(0, (-1, 4)), {**rollouts._asdict(), "advantages": advantages})
    grads = torch.func.grad(_loss_sum)(state.params, a_stage.loss, whole, state.key)
    for one, total in zip(tree.leaves(single), tree.leaves(grads), strict=True):
        torch.testing.assert_close(one.sum(0), total, rtol=1e-4, atol=1e-5)


def _loss_sum(params: object, loss: object, batch: object, key: torch.Tensor) -> torch.Tensor:
    return loss(params, {"batch_position": torch.arange(len(batch["row"])), **batch}, key)[0]


def test_leave_one_out_is_accepted_as_a_scale() -> None:
    a_stage = make_stage(grpo, variant="rloo", scale="leave_one_out")
    state = a_stage.init(random.key(0))
    assert not same_bits(a_stage.step(state, prompt_batch(0)).params, state.params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "token"}, "scale must be one of group, batch"),
        ({"iterations": 0}, "must be at least 1, got iterations=0"),
        ({"samples": 0}, "must be at least 1, got .*samples=0"),
        ({"beta": 0.1}, "beta 0.1 needs a reference"),
    ],
)
def test_invalid_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_stage(grpo, **options)


def equal_weighted_rewards(rollouts: Rollouts) -> torch.Tensor:
    """Two rewards with the same weighted sum for all completions; every third completion has none."""
    index = torch.arange(len(rollouts.mask))
    rewards = torch.stack([torch.where(index % 2 == 0, 0.7, 0.1), torch.where(index % 2 == 0, 0.1, 2.1)], 1)
    return torch.where((index % 3 == 1)[:, None], torch.nan, rewards)


@pytest.mark.parametrize(
    ("variant", "scale"),
    [*((variant, "group") for variant in CLIPS), *(("rloo", scale) for scale in SCALES[1:])],
)
def test_equal_rewards_leave_the_params_unchanged(variant: str, scale: str) -> None:
    a_stage = make_stage(
        grpo,
        score=equal_weighted_rewards,
        rewards=("a", "b"),
        weights=(1.0, 0.3),
        variant=variant,
        scale=scale,
    )
    state = a_stage.init(random.key(0))
    after = functools.reduce(a_stage.step, [prompt_batch(0), prompt_batch(1)], state)
    assert same_bits(after.params, state.params)
    assert (
        after.metrics["grad_norm"],
        after.metrics["frac_reward_zero_std"],
        after.metrics["reward_std"],
    ) == (0, 1, 0)
    assert after.metrics["nonfinite_leaf"] == -1


def test_the_first_update_is_at_a_ratio_of_exactly_one() -> None:
    for options in ({"iterations": 1}, {"score": None}):
        online = make_stage(grpo)
        state = online.init(random.key(0))
        rollouts, rewards = generate_and_score(state, prompt_batch(0), parts=online.parts)
        logps = policy_logps(state.params, rollouts)
        batch = {**rollouts._replace(logps=logps)._asdict(), "rewards": rewards}
        a_stage = make_stage(grpo, **options)
        metrics = a_stage.step(state, batch if "score" in options else prompt_batch(0)).metrics
        assert (metrics["approx_kl"], metrics["clip_ratio/region_mean"]) == (0, 0)


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_batch_without_scores_is_skipped_and_named(iterations: int) -> None:
    model = transformer(small(max_position_embeddings=32))
    a_stage = grpo(
        model,
        optim.adam(1e-2),
        score=score_nothing,
        reference=model.init(random.key(1)),
        beta=0.1,
        iterations=iterations,
        **OPTIONS,
    )
    state = a_stage.parts.init(random.key(0))
    after = a_stage.step(state, prompt_batch(0))
    assert same_bits((after.params, after.opt_state), (state.params, state.opt_state))
    assert after.metrics["nonfinite_leaf"] == len(tree.leaves(state.params)) + 1
    assert after.metrics["frac_unjudged"] == 1


def score_nothing(rollouts: Rollouts) -> torch.Tensor:
    return torch.full((len(rollouts.mask), 1), torch.nan)
