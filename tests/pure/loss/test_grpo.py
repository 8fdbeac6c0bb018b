"""`pure.loss.grpo`: all variants compared with a float64 loop and TRL; metrics of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.grpo import CLIPS, grpo_loss
from pure.loss.policy_metrics import policy_metrics
from pure.transform.grad import value_and_grad
from tests.pure.loss.peer import fake_trainer

ANSWERS, TOKENS = 5, 7
LENGTHS = torch.tensor([7, 3, 0, 1, 5])
MASK = torch.arange(TOKENS) < LENGTHS[:, None]
LOGPS, OLD, REFERENCE = (-1 - 0.4 * random.normal(random.key(i), (ANSWERS, TOKENS)).abs() for i in range(3))
ADVANTAGES = torch.tensor([1.5, -0.7, 0.3, -2.0, 0.0])
ADVANTAGES_OF_TOKENS = torch.where(LENGTHS > 0, ADVANTAGES, 0.0)
"""Advantages, 0 for an answer without tokens: TRL's RLOO would add its advantage as a constant."""


def compute_loss(variant: str, **changes: Any) -> Any:
    options = {
        "variant": variant,
        "beta": 0.1,
        "max_length": TOKENS,
        "clip_low": 0.2,
        "clip_high": 0.3,
    } | changes
    return grpo_loss(LOGPS, OLD, REFERENCE, ADVANTAGES, MASK, **options)


def clipped_loss(ratio: float, advantage: float, dual: float | None) -> float:
    """The clipped loss of one ratio; the dual clip bounds it where the advantage is negative."""
    loss = -min(ratio * advantage, min(max(ratio, 0.8), 1.3) * advantage)
    return min(loss, -dual * advantage) if dual and advantage < 0 else loss


def naive_loss(variant: str, dual: float | None = None, beta: float = 0.1) -> tuple[float, float]:
    """Compute (sum, count) by the table in `grpo_loss`, token by token, in Python floats."""
    total, tokens = 0.0, 0
    for b, advantage in enumerate(ADVANTAGES.tolist()):
        length = int(LENGTHS[b])
        new, old, reference = ([float(x[b, t]) for t in range(length)] for x in (LOGPS, OLD, REFERENCE))
        log_ratios = [n - o for n, o in zip(new, old, strict=True)]
        divergences = [math.exp(r - n) - (r - n) - 1 for n, r in zip(new, reference, strict=True)]
        if variant == "gspo":
            log_ratios = [sum(log_ratios) / max(length, 1)] * length
        if variant == "rloo":
            if length:
                total += clipped_loss(math.exp(sum(log_ratios)), advantage, dual) + beta * sum(divergences)
        else:
            answer = 0.0
            for log_ratio, logp, divergence in zip(log_ratios, new, divergences, strict=True):
                ratio = math.exp(log_ratio)
                if variant == "cispo":
                    token_loss = -min(ratio, 1.3) * advantage * logp
                else:
                    token_loss = clipped_loss(ratio, advantage, dual)
                answer += token_loss + beta * divergence
            total += answer / max(length, 1) if variant in ("grpo", "gspo") else answer
        tokens += length
    count = {"grpo": ANSWERS, "gspo": ANSWERS, "rloo": ANSWERS, "dr_grpo": ANSWERS * TOKENS}.get(
        variant, tokens
    )
    return total, count


@pytest.mark.parametrize("variant", CLIPS)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_losses_equal_a_float64_loop(variant: str, beta: float) -> None:
    found = compute_loss(variant, beta=beta)
    total, count = naive_loss(variant, beta=beta)
    assert found.sum.item() == pytest.approx(total, rel=1e-5, abs=1e-6)
    assert found.count.item() == count


@pytest.mark.parametrize("variant", [name for name in CLIPS if name != "cispo"])
def test_the_dual_clip_bounds_the_loss_of_negative_advantages(variant: str) -> None:
    assert compute_loss(variant, dual_clip=1.05).sum.item() == pytest.approx(
        naive_loss(variant, dual=1.05)[0], rel=1e-5
    )
    assert compute_loss(variant, dual_clip=1.05).sum <= compute_loss(variant).sum


def trl_loss(trainer: str, loss_type: str, level: str, logps: Tensor, ratio: Tensor | None = None) -> Tensor:
    """Compute TRL's loss for these log-probabilities of the policy, and importance ratios of its sampler."""
    import trl

    high = 1.3 if loss_type == "cispo" else 0.3  # TRL's bound for CISPO is the ratio itself
    fake = fake_trainer(
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=0.1,
        epsilon_low=0.2,
        epsilon_high=high,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=ratio is not None,
        vllm_importance_sampling_correction=True,
        max_completion_length=TOKENS,
        _entropy_bonus_enabled=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
    )
    ids = torch.zeros(ANSWERS, TOKENS, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": MASK.long(),
        "advantages": ADVANTAGES_OF_TOKENS,
        "old_per_token_logps": OLD,
        "ref_per_token_logps": REFERENCE,
        "old_logps": (OLD * MASK).sum(1),
        "num_items_in_batch": MASK.sum(),
        "importance_sampling_ratio": ratio,
    }
    return getattr(trl, trainer)._compute_loss(fake, None, inputs)


@pytest.mark.parametrize(
    ("variant", "trainer", "loss_type", "level"),
    [
        ("grpo", "GRPOTrainer", "grpo", "token"),
        ("bnpo", "GRPOTrainer", "bnpo", "token"),
        ("dr_grpo", "GRPOTrainer", "dr_grpo", "token"),
        ("dapo", "GRPOTrainer", "dapo", "token"),
        ("gspo", "GRPOTrainer", "grpo", "sequence"),
        ("cispo", "GRPOTrainer", "cispo", "token"),
        ("rloo", "RLOOTrainer", "", ""),
    ],
)
def test_losses_equal_trl_in_value_and_gradient(
    variant: str, trainer: str, loss_type: str, level: str
) -> None:
    """RLOO is compared without a KL term, as TRL subtracts it from the rewards."""

    def ours(logps: Tensor) -> Tensor:
        options = {"variant": variant, "clip_low": 0.2, "clip_high": 0.3, "max_length": TOKENS}
        reference, beta = (None, 0.0) if variant == "rloo" else (REFERENCE, 0.1)
        total, count = grpo_loss(logps, OLD, reference, ADVANTAGES_OF_TOKENS, MASK, beta=beta, **options)
        return total / count

    theirs = partial(trl_loss, trainer, loss_type, level)
    torch.testing.assert_close(
        value_and_grad(ours)(LOGPS), value_and_grad(theirs)(LOGPS), rtol=1e-4, atol=1e-6
    )


def gradient_by_logps(
    variant: str, function: Callable[[Tensor], Tensor] = lambda x: x, **changes: Any
) -> Tensor:
    """Gradient of the loss by LOGPS; `function` is applied to them first."""

    def total(logps: Tensor) -> Tensor:
        options = {"variant": variant, "max_length": TOKENS} | changes
        advantages = options.pop("advantages", ADVANTAGES)
        return grpo_loss(function(logps), OLD, None, advantages, MASK, **options).sum

    return value_and_grad(total)(LOGPS)[1]


@pytest.mark.parametrize("variant", CLIPS)
def test_masked_tokens_and_equal_rewards_give_no_gradient(variant: str) -> None:
    assert (gradient_by_logps(variant, clip_low=0.5, clip_high=9.0)[~MASK] == 0).all()
    assert (gradient_by_logps(variant, advantages=torch.zeros(ANSWERS)) == 0).all()


@pytest.mark.parametrize("variant", CLIPS)
def test_losses_and_gradients_of_extreme_ratios_are_finite(variant: str) -> None:
    extreme = torch.where(MASK, LOGPS * 1e6, float("nan"))
    found = grpo_loss(extreme, OLD, extreme, ADVANTAGES, MASK, variant=variant, beta=0.1, max_length=TOKENS)
    assert found.sum.isfinite()
    assert gradient_by_logps(variant, lambda x: x * 1e6).isfinite().all()


@pytest.mark.parametrize("variant", CLIPS)
def test_the_on_policy_gradient_is_that_of_reinforce(variant: str) -> None:
    """At ratio 1 every variant gives the policy gradient, weighted by its normalisation."""

    def total(logps: Tensor) -> Tensor:
        return grpo_loss(logps, LOGPS, None, ADVANTAGES, MASK, variant=variant, max_length=TOKENS).sum

    tokens = LENGTHS.clamp(min=1)[:, None] if variant in ("grpo", "gspo") else torch.ones(ANSWERS, 1)
    expected = torch.where(MASK, -ADVANTAGES[:, None] / tokens, 0.0)
    torch.testing.assert_close(value_and_grad(total)(LOGPS)[1], expected)


def test_vmap_over_groups_sums_to_the_loss_of_the_whole_batch() -> None:
    groups = [torch.stack([x, x.flip(0)]) for x in (LOGPS, OLD, ADVANTAGES, MASK)]
    found = torch.func.vmap(lambda n, o, a, m: grpo_loss(n, o, None, a, m))(*groups)
    whole = grpo_loss(*(x.flatten(0, 1) for x in groups[:2]), None, *(x.flatten(0, 1) for x in groups[2:]))
    torch.testing.assert_close(found.sum.sum(), whole.sum)
    assert found.count.sum() == whole.count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "ppo"}, "must be one of grpo"),
        ({"variant": "dr_grpo", "max_length": None}, "needs max_length"),
        ({"variant": "grpo", "clip_low": -0.1}, "clip_low must be at least 0"),
        ({"variant": "cispo", "dual_clip": 3.0}, "dual_clip"),
        ({"variant": "grpo", "dual_clip": 1.0}, "above 1"),
        ({"variant": "grpo", "kl": "k4"}, "kl must be one of k1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_loss(**options)
    with pytest.raises(ValueError, match="needs reference_logps"):
        grpo_loss(LOGPS, OLD, None, ADVANTAGES, MASK, beta=0.1)


def test_policy_metrics_count_the_clipped_tokens() -> None:
    found = policy_metrics(LOGPS, OLD, ADVANTAGES, MASK, clip_low=0.2, clip_high=0.3)
    ratio = (LOGPS - OLD).exp()
    a = ADVANTAGES[:, None]
    low, high = ((ratio < 0.8) & (a < 0) & MASK).sum(), ((ratio > 1.3) & (a > 0) & MASK).sum()
    assert found["clip_ratio/low_mean"] == (low, MASK.sum())
    assert found["clip_ratio/high_mean"] == (high, MASK.sum())
    assert found["clip_ratio/region_mean"] == (low + high, MASK.sum())
    assert found["approx_kl"][0] > 0


@pytest.mark.parametrize("variant", CLIPS)
def test_advantages_of_zero_give_a_gradient_of_exactly_zero(variant: str) -> None:
    no_advantages = torch.zeros(ANSWERS)
    gradient = value_and_grad(
        lambda x: grpo_loss(x, OLD, None, no_advantages, MASK, variant=variant, max_length=9).sum
    )
    assert (gradient(LOGPS)[1] == 0).all()
