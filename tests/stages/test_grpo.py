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
from tests.stages.test_online import OPTIONS, SAMPLING, evens, make, policy_logps, prompts


@pytest.mark.parametrize("variant", CLIPS)
def test_every_variant_learns(variant: str) -> None:
    made = make(
        grpo, variant=variant, clip_low=0.2, clip_high=0.2, scale="none" if variant == "dr_grpo" else "group"
    )
    state = made.init(random.key(0))
    after = made.step(state, prompts(0))
    assert after.metrics["grad_norm"] > 0
    assert after.metrics["loss"].isfinite()


def test_on_fresh_answers_the_ratio_is_one_and_nothing_is_clipped() -> None:
    metrics = make(grpo).step(make(grpo).init(random.key(0)), prompts(0)).metrics
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["approx_kl"].abs() < 1e-6


def test_ids_beyond_the_vocabulary_are_not_drawn_and_the_ratio_stays_one() -> None:
    made = make(grpo, sampling=SAMPLING._replace(vocabulary=9))
    state = made.init(random.key(0))
    drawn, _ = generate_and_score(state, prompts(0), parts=made.parts)
    assert drawn.tokens[:, -drawn.mask.shape[1] :][drawn.mask].max() < 9
    metrics = made.step(state, prompts(0)).metrics
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["approx_kl"].abs() < 1e-6


def test_on_the_second_use_it_is_against_the_policy_that_drew() -> None:
    made = make(grpo, iterations=3)
    metrics = made.step(made.init(random.key(0)), prompts(0)).metrics
    assert metrics["approx_kl"] > 1e-6


def test_the_reference_holds_the_policy_back() -> None:
    model = transformer(small(max_position_embeddings=32))
    start = model.init(random.key(1))
    ends = []
    for beta in (0.0, 5.0):
        made = grpo(model, optim.adam(3e-3), score=evens, reference=start, beta=beta, kl="k3+", **OPTIONS)
        state = functools.reduce(made.step, [prompts(i) for i in range(15)], made.init(random.key(0), start))
        ends.append(state.metrics["kl"].item())
    assert 0 < ends[1] < ends[0] / 2


def test_ready_made_groups_are_learned_from_as_fresh_ones() -> None:
    """Drawn here, handed over as a batch: the same gradient but for the sampler's rounding."""
    online = make(grpo)
    state = online.init(random.key(0))
    rollouts, rewards = generate_and_score(state, prompts(0), parts=online.parts)
    offline = make(grpo, score=None)
    after = offline.step(state, {**rollouts._asdict(), "rewards": rewards})
    torch.testing.assert_close(
        after.metrics["grad_norm"], online.step(state, prompts(0)).metrics["grad_norm"], rtol=1e-4, atol=1e-6
    )


def test_the_gradient_of_each_completion_adds_up_to_that_of_all() -> None:
    """The microscope: groups of one, whose advantages were computed in their groups before."""
    made = make(grpo)
    state = made.init(random.key(0))
    rollouts, rewards = generate_and_score(state, prompts(0), parts=made.parts)
    advantages = group_advantages(rewards[:, 0].unflatten(0, (-1, 4))).flatten()
    batch = tree.map(lambda x: x[:, None], {**rollouts._asdict(), "advantages": advantages})
    single = per_sample_grad(made.loss)(state.params, batch, state.key)
    whole = tree.map(lambda x: x.unflatten(0, (-1, 4)), {**rollouts._asdict(), "advantages": advantages})
    grads = torch.func.grad(_sum)(state.params, made.loss, whole, state.key)
    for one, all_ in zip(tree.leaves(single), tree.leaves(grads), strict=True):
        torch.testing.assert_close(one.sum(0), all_, rtol=1e-4, atol=1e-5)


def _sum(params: object, loss: object, batch: object, key: torch.Tensor) -> torch.Tensor:
    return loss(params, {"batch_position": torch.arange(len(batch["row"])), **batch}, key)[0]


def test_leave_one_out_is_accepted_as_a_scale() -> None:
    made = make(grpo, variant="rloo", scale="leave_one_out")
    state = made.init(random.key(0))
    assert not same_bits(made.step(state, prompts(0)).params, state.params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "token"}, "scale must be one of group, batch"),
        ({"iterations": 0}, "must be at least 1, got iterations=0"),
        ({"samples": 0}, "must be at least 1, got .*samples=0"),
        ({"beta": 0.1}, "beta 0.1 needs a reference"),
    ],
)
def test_contradictions_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(grpo, **options)


def same_for_all(rollouts: Rollouts) -> torch.Tensor:
    """Two rewards that add up to the same for all answers that have any; one in three has none."""
    number = torch.arange(len(rollouts.mask))
    found = torch.stack([torch.where(number % 2 == 0, 0.7, 0.1), torch.where(number % 2 == 0, 0.1, 2.1)], 1)
    return torch.where((number % 3 == 1)[:, None], torch.nan, found)


@pytest.mark.parametrize(
    ("variant", "scale"), [*((v, "group") for v in CLIPS), *(("rloo", s) for s in SCALES[1:])]
)
def test_equal_rewards_move_nothing(variant: str, scale: str) -> None:
    made = make(
        grpo, score=same_for_all, rewards=("a", "b"), weights=(1.0, 0.3), variant=variant, scale=scale
    )
    state = made.init(random.key(0))
    after = functools.reduce(made.step, [prompts(0), prompts(1)], state)
    assert same_bits(after.params, state.params)
    assert (
        after.metrics["grad_norm"],
        after.metrics["frac_reward_zero_std"],
        after.metrics["reward_std"],
    ) == (0, 1, 0)
    assert after.metrics["nonfinite_leaf"] == -1


def test_the_first_update_is_at_a_ratio_of_exactly_one() -> None:
    for options in ({"iterations": 1}, {"score": None}):
        drawn = make(grpo)
        state = drawn.init(random.key(0))
        rollouts, rewards = generate_and_score(state, prompts(0), parts=drawn.parts)
        logps = policy_logps(state.params, rollouts)
        batch = {**rollouts._replace(logps=logps)._asdict(), "rewards": rewards}
        made = make(grpo, **options)
        metrics = made.step(state, batch if "score" in options else prompts(0)).metrics
        assert (metrics["approx_kl"], metrics["clip_ratio/region_mean"]) == (0, 0)


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_round_that_nobody_could_judge_is_skipped_and_named(iterations: int) -> None:
    model = transformer(small(max_position_embeddings=32))
    made = grpo(
        model,
        optim.adam(1e-2),
        score=score_nothing,
        reference=model.init(random.key(1)),
        beta=0.1,
        iterations=iterations,
        **OPTIONS,
    )
    state = made.parts.init(random.key(0))
    after = made.step(state, prompts(0))
    assert same_bits((after.params, after.opt_state), (state.params, state.opt_state))
    assert after.metrics["nonfinite_leaf"] == len(tree.leaves(state.params)) + 1
    assert after.metrics["frac_unjudged"] == 1


def score_nothing(rollouts: Rollouts) -> torch.Tensor:
    return torch.full((len(rollouts.mask), 1), torch.nan)
