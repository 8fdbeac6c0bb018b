"""DPO and its variants: by hand, against a float64 loop, against TRL, and where arguments contradict each
other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.dpo import VARIANTS, dpo_loss
from pure.transform.grad import value_and_grad
from tests.pure.loss.peer import answering, fake_trainer, one_token_answers

PAIRS = 6
POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED = (
    -20 + 5 * random.normal(random.key(i), (PAIRS,)) for i in range(4)
)
TOKENS = {
    "chosen_tokens": torch.tensor([3, 5, 1, 9, 2, 4]),
    "rejected_tokens": torch.tensor([4, 2, 2, 8, 3, 1]),
}
SMOOTHING = {"conservative": 0.1, "robust": 0.2}


def references(variant: str) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if variant == "simpo" else (REFERENCE_CHOSEN, REFERENCE_REJECTED)


def losses_of(variant: str, beta: float = 0.3, **changes: Any) -> Any:
    options = {
        "beta": beta,
        "variant": variant,
        "label_smoothing": SMOOTHING.get(variant, 0.0),
        **TOKENS,
    } | changes
    return dpo_loss(POLICY_CHOSEN, POLICY_REJECTED, *references(variant), **options)


def naive(variant: str, i: int, beta: float) -> float:
    """One pair, in Python floats."""
    c, r, rc, rr = (
        float(x[i]) for x in (POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)
    )
    nc, nr = int(TOKENS["chosen_tokens"][i]), int(TOKENS["rejected_tokens"][i])
    h = (c - rc) - (r - rr)
    log_sigmoid = lambda z: -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))  # noqa: E731
    e = SMOOTHING.get(variant, 0.0)
    if variant == "ipo":
        return ((c - rc) / nc - (r - rr) / nr - 1 / (2 * beta)) ** 2
    if variant == "hinge":
        return max(0.0, 1 - beta * h)
    if variant == "simpo":
        return -log_sigmoid(beta * (c / nc - r / nr) - 0.5)
    if variant == "robust":
        return (-(1 - e) * log_sigmoid(beta * h) + e * log_sigmoid(-beta * h)) / (1 - 2 * e)
    return -(1 - e) * log_sigmoid(beta * h) - e * log_sigmoid(-beta * h)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_a_loop_in_float64(variant: str) -> None:
    expected = [naive(variant, i, 0.3) for i in range(PAIRS)]
    assert losses_of(variant).losses.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def trl_loss(variant: str, chosen: Tensor, rejected: Tensor) -> Tensor:
    """The loss as TRL's trainer computes it, with a model that answers with these log-probabilities."""
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
    batch = one_token_answers(2 * PAIRS) | {
        "ref_chosen_logps": REFERENCE_CHOSEN,
        "ref_rejected_logps": REFERENCE_REJECTED,
    }
    return DPOTrainer._compute_loss(trainer, answering(torch.cat([chosen, rejected])), batch, False)


@pytest.mark.parametrize("variant", ["sigmoid", "robust", "hinge", "ipo"])
def test_equals_trl_in_value_and_gradient(variant: str) -> None:
    """One token an answer, so that IPO's division changes nothing."""
    one = {name: torch.ones(PAIRS) for name in TOKENS}

    def ours(both: tuple[Tensor, Tensor]) -> Tensor:
        options = {"beta": 0.3, "variant": variant, "label_smoothing": SMOOTHING.get(variant, 0.0), **one}
        return dpo_loss(*both, REFERENCE_CHOSEN, REFERENCE_REJECTED, **options).losses.mean()

    theirs = lambda both: trl_loss(variant, *both)  # noqa: E731
    both = (POLICY_CHOSEN, POLICY_REJECTED)
    torch.testing.assert_close(value_and_grad(ours)(both), value_and_grad(theirs)(both), rtol=1e-4, atol=1e-5)


def test_a_table_that_can_be_checked_by_hand() -> None:
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


def test_without_smoothing_conservative_and_robust_are_the_original() -> None:
    for variant in ("conservative", "robust"):
        torch.testing.assert_close(
            losses_of(variant, label_smoothing=0.0).losses, losses_of("sigmoid").losses
        )


def test_rewards_have_no_gradient_and_are_the_log_ratios() -> None:
    rewards = losses_of("sigmoid")
    torch.testing.assert_close(rewards.chosen_rewards, 0.3 * (POLICY_CHOSEN - REFERENCE_CHOSEN))
    policy = POLICY_CHOSEN.clone().requires_grad_()
    with_gradient = dpo_loss(policy, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, beta=0.3)
    assert with_gradient.losses.requires_grad
    assert not with_gradient.chosen_rewards.requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_absurd_pairs_stay_finite(variant: str) -> None:
    far = torch.tensor([-1e8, 0.0, -5.0])
    refs = (None, None) if variant == "simpo" else (torch.zeros(3), torch.zeros(3))
    none = {"chosen_tokens": torch.zeros(3), "rejected_tokens": torch.zeros(3)}
    value, grad = value_and_grad(
        lambda x: dpo_loss(x, far.flip(0), *refs, beta=0.1, variant=variant, **none).losses.sum()
    )(far)
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
def test_contradictions_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dpo_loss(POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, beta=0.1, **options)


def test_a_missing_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="both references"):
        dpo_loss(POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, None, beta=0.1)
