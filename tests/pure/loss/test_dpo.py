"""`pure.loss.dpo`: all variants compared with values by hand, a float64 loop and TRL."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.dpo import VARIANTS, dpo_loss
from pure.transform.grad import value_and_grad
from tests.pure.loss.peer import fake_model, fake_trainer, one_token_completions

PAIRS = 6
POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED = (
    -20 + 5 * random.normal(random.key(i), (PAIRS,)) for i in range(4)
)
TOKENS = {
    "chosen_tokens": torch.tensor([3, 5, 1, 9, 2, 4]),
    "rejected_tokens": torch.tensor([4, 2, 2, 8, 3, 1]),
}
SMOOTHING = {"conservative": 0.1, "robust": 0.2}


def reference_logps(variant: str) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if variant == "simpo" else (REFERENCE_CHOSEN, REFERENCE_REJECTED)


def compute_losses(variant: str, beta: float = 0.3, **changes: Any) -> Any:
    options = {
        "beta": beta,
        "variant": variant,
        "label_smoothing": SMOOTHING.get(variant, 0.0),
        **TOKENS,
    } | changes
    return dpo_loss(POLICY_CHOSEN, POLICY_REJECTED, *reference_logps(variant), **options)


def naive_loss(variant: str, i: int, beta: float) -> float:
    """Compute the loss of pair `i` in Python floats."""
    chosen, rejected = float(POLICY_CHOSEN[i]), float(POLICY_REJECTED[i])
    chosen_ratio = chosen - float(REFERENCE_CHOSEN[i])
    rejected_ratio = rejected - float(REFERENCE_REJECTED[i])
    chosen_tokens, rejected_tokens = int(TOKENS["chosen_tokens"][i]), int(TOKENS["rejected_tokens"][i])
    logit = beta * (chosen_ratio - rejected_ratio)
    smoothing = SMOOTHING.get(variant, 0.0)
    if variant == "ipo":
        return (chosen_ratio / chosen_tokens - rejected_ratio / rejected_tokens - 1 / (2 * beta)) ** 2
    if variant == "hinge":
        return max(0.0, 1 - logit)
    if variant == "simpo":
        return -log_sigmoid(beta * (chosen / chosen_tokens - rejected / rejected_tokens) - 0.5)
    if variant == "robust":
        loss = -(1 - smoothing) * log_sigmoid(logit) + smoothing * log_sigmoid(-logit)
        return loss / (1 - 2 * smoothing)
    return -(1 - smoothing) * log_sigmoid(logit) - smoothing * log_sigmoid(-logit)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_equal_a_float64_loop(variant: str) -> None:
    expected = [naive_loss(variant, i, 0.3) for i in range(PAIRS)]
    assert compute_losses(variant).losses.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def trl_loss(variant: str, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Compute TRL's loss for these log-probabilities of the policy."""
    from trl import DPOTrainer

    trainer = fake_trainer(
        loss_types=[variant],
        loss_weights=[1.0],
        beta=0.3,
        label_smoothing=SMOOTHING.get(variant, 0.0),
        f_divergence_type="reverse_kl",
        precompute_ref_logps=True,
        ld_alpha=None,
        use_weighting=False,
    )
    batch = one_token_completions(2 * PAIRS) | {
        "ref_chosen_logps": REFERENCE_CHOSEN,
        "ref_rejected_logps": REFERENCE_REJECTED,
    }
    return DPOTrainer._compute_loss(trainer, fake_model(torch.cat([chosen, rejected])), batch, False)


@pytest.mark.parametrize("variant", ["sigmoid", "robust", "hinge", "ipo"])
def test_losses_equal_trl_in_value_and_gradient(variant: str) -> None:
    """Completions have one token, so that the division by their length in IPO changes nothing."""
    one_token = {name: torch.ones(PAIRS) for name in TOKENS}

    def our_loss(logps: tuple[Tensor, Tensor]) -> Tensor:
        options = {
            "beta": 0.3,
            "variant": variant,
            "label_smoothing": SMOOTHING.get(variant, 0.0),
            **one_token,
        }
        return dpo_loss(*logps, REFERENCE_CHOSEN, REFERENCE_REJECTED, **options).losses.mean()

    def their_loss(logps: tuple[Tensor, Tensor]) -> Tensor:
        return trl_loss(variant, *logps)

    policy = (POLICY_CHOSEN, POLICY_REJECTED)
    expected = value_and_grad(their_loss)(policy)
    torch.testing.assert_close(value_and_grad(our_loss)(policy), expected, rtol=1e-4, atol=1e-5)


def test_losses_at_log_probabilities_of_zero_equal_values_by_hand() -> None:
    zero = torch.zeros(1)
    for variant, expected in (
        ("sigmoid", math.log(2)),
        ("conservative", math.log(2)),
        ("robust", math.log(2)),
        ("ipo", 25.0),
        ("hinge", 1.0),
        ("simpo", math.log(1 + math.exp(0.5))),
    ):
        refs = (None, None) if variant == "simpo" else (zero, zero)
        ones = {"chosen_tokens": torch.ones(1), "rejected_tokens": torch.ones(1)}
        assert dpo_loss(zero, zero, *refs, beta=0.1, variant=variant, **ones).losses.item() == pytest.approx(
            expected
        )


def test_conservative_and_robust_losses_without_smoothing_equal_sigmoid() -> None:
    for variant in ("conservative", "robust"):
        torch.testing.assert_close(
            compute_losses(variant, label_smoothing=0.0).losses, compute_losses("sigmoid").losses
        )


def test_rewards_are_scaled_log_ratios_without_gradient() -> None:
    rewards = compute_losses("sigmoid")
    torch.testing.assert_close(rewards.chosen_rewards, 0.3 * (POLICY_CHOSEN - REFERENCE_CHOSEN))
    policy = POLICY_CHOSEN.clone().requires_grad_()
    with_gradient = dpo_loss(policy, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, beta=0.3)
    assert with_gradient.losses.requires_grad
    assert not with_gradient.chosen_rewards.requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_of_extreme_pairs_are_finite(variant: str) -> None:
    extreme = torch.tensor([-1e8, 0.0, -5.0])
    refs = (None, None) if variant == "simpo" else (torch.zeros(3), torch.zeros(3))
    no_tokens = {"chosen_tokens": torch.zeros(3), "rejected_tokens": torch.zeros(3)}
    value, grad = value_and_grad(
        lambda x: dpo_loss(x, extreme.flip(0), *refs, beta=0.1, variant=variant, **no_tokens).losses.sum()
    )(extreme)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "orpo"}, "pure.loss.orpo and pure.loss.kto"),
        ({"variant": "sigmoid", "label_smoothing": 0.1}, "only conservative and robust"),
        ({"variant": "robust", "label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ({"variant": "ipo"}, "divides by the completions' tokens"),
        ({"variant": "simpo"}, "takes no reference"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dpo_loss(POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, beta=0.1, **options)


def test_a_missing_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="both references"):
        dpo_loss(POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, None, beta=0.1)
