"""`pure.loss.kto`: compared with a float64 loop and TRL; the divergence of mismatched pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.kto import kto_loss, mismatched_divergence
from pure.transform.grad import value_and_grad
from tests.pure.loss.peer import fake_model, fake_trainer, one_token_completions

POLICY, REFERENCE = (-10 + 3 * random.normal(random.key(i), (7,)) for i in (1, 2))
DESIRABLE = torch.tensor([True, True, False, True, False, False, True])
DIVERGENCE = torch.tensor(0.7)
WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.5}


def test_losses_equal_a_float64_loop() -> None:
    found = kto_loss(POLICY, REFERENCE, DESIRABLE, DIVERGENCE, beta=0.2, **WEIGHTS)
    for i in range(7):
        ratio = float(POLICY[i] - REFERENCE[i])
        logit = 0.2 * (ratio - 0.7) if DESIRABLE[i] else 0.2 * (0.7 - ratio)
        weight = 1.5 if DESIRABLE[i] else 0.5
        assert found.losses[i].item() == pytest.approx(weight * (1 - 1 / (1 + math.exp(-logit))), rel=1e-4)
        assert found.rewards[i].item() == pytest.approx(0.2 * ratio, rel=1e-4)


def test_losses_equal_trl_in_value_and_gradient() -> None:
    from trl import KTOTrainer

    def ours(policy: Tensor) -> Tensor:
        return kto_loss(policy, REFERENCE, DESIRABLE, DIVERGENCE, beta=0.2, **WEIGHTS).losses.mean()

    def theirs(policy: Tensor) -> Tensor:
        trainer = fake_trainer(
            loss_type="kto", beta=0.2, precompute_ref_logps=True, calculate_KL=True, **WEIGHTS
        )
        trainer._compute_kl_logps = lambda model, batch: DIVERGENCE + torch.zeros(7)
        batch = one_token_completions(7) | {
            "label": DESIRABLE,
            "ref_logps": REFERENCE,
            "ref_KL_logps": torch.zeros(7),
        }
        return KTOTrainer._compute_loss(trainer, fake_model(policy), batch, False)

    torch.testing.assert_close(
        value_and_grad(ours)(POLICY), value_and_grad(theirs)(POLICY), rtol=1e-4, atol=1e-6
    )


def test_the_mismatched_divergence_is_at_least_zero_and_has_no_gradient() -> None:
    assert mismatched_divergence(REFERENCE - 1, REFERENCE) == 0
    found = mismatched_divergence((REFERENCE + 2).requires_grad_(), REFERENCE)
    assert found.item() == pytest.approx(2.0, rel=1e-5)
    assert not found.requires_grad


def test_losses_of_extreme_ratios_saturate() -> None:
    extreme = torch.tensor([1e8, -1e8])
    value, grad = value_and_grad(
        lambda x: kto_loss(
            x, torch.zeros(2), torch.tensor([True, True]), torch.tensor(0.0), beta=0.1
        ).losses.sum()
    )(extreme)
    assert value.item() == pytest.approx(1.0)
    assert (grad == 0).all()
