"""`pure.loss.orpo`: compared with a float64 loop, and its odds ratio with TRL."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.orpo import orpo_loss
from pure.transform.grad import value_and_grad

CHOSEN, REJECTED = (-0.1 - 4 * random.uniform(random.key(i), (6,)) for i in (1, 2))
TOKENS = {
    "chosen_tokens": torch.tensor([3, 5, 1, 9, 2, 4]),
    "rejected_tokens": torch.tensor([4, 2, 2, 8, 3, 1]),
}


def test_losses_and_odds_ratios_equal_a_float64_loop() -> None:
    found = orpo_loss(CHOSEN, REJECTED, beta=0.3, **TOKENS)
    for i in range(6):
        chosen = CHOSEN[i].item() / TOKENS["chosen_tokens"][i].item()
        rejected = REJECTED[i].item() / TOKENS["rejected_tokens"][i].item()
        odds_of_chosen = math.exp(chosen) / (1 - math.exp(chosen))
        odds_of_rejected = math.exp(rejected) / (1 - math.exp(rejected))
        ratio = odds_of_chosen / odds_of_rejected
        assert found.log_odds_ratio[i].item() == pytest.approx(math.log(ratio), rel=1e-4, abs=1e-5)
        assert found.losses[i].item() == pytest.approx(
            -chosen - 0.3 * math.log(ratio / (1 + ratio)), rel=1e-4
        )


@pytest.mark.filterwarnings("ignore")
def test_the_odds_ratio_loss_equals_trl_in_value_and_gradient() -> None:
    """TRL takes mean log-probabilities and returns β log σ(log odds ratio), without the likelihood."""
    from trl.experimental.orpo import ORPOTrainer

    means = (CHOSEN / TOKENS["chosen_tokens"], REJECTED / TOKENS["rejected_tokens"])
    ones = {name: torch.ones(6) for name in TOKENS}
    fake = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))

    def ours(both: tuple[Tensor, Tensor]) -> Tensor:
        return (orpo_loss(*both, beta=0.3, **ones).losses + both[0]).sum()

    def theirs(both: tuple[Tensor, Tensor]) -> Tensor:
        return -ORPOTrainer.odds_ratio_loss(fake, *both)[0].sum()

    torch.testing.assert_close(
        value_and_grad(ours)(means), value_and_grad(theirs)(means), rtol=1e-4, atol=1e-5
    )


def test_losses_and_gradients_of_certain_and_empty_answers_are_finite() -> None:
    certain = torch.tensor([0.0, -1e8])
    no_tokens = {name: torch.zeros(2) for name in TOKENS}
    value, grad = value_and_grad(lambda x: orpo_loss(x, certain.flip(0), beta=0.1, **no_tokens).losses.sum())(
        certain
    )
    assert value.isfinite()
    assert grad.isfinite().all()
