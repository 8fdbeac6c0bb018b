"""ORPO: a float64 loop, TRL's odds ratio, edges."""

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


def test_equals_a_loop_in_float64() -> None:
    found = orpo_loss(CHOSEN, REJECTED, beta=0.3, **TOKENS)
    for i in range(6):
        c = CHOSEN[i].item() / TOKENS["chosen_tokens"][i].item()
        r = REJECTED[i].item() / TOKENS["rejected_tokens"][i].item()
        odds = (math.exp(c) / (1 - math.exp(c))) / (math.exp(r) / (1 - math.exp(r)))
        assert found.log_odds_ratio[i].item() == pytest.approx(math.log(odds), rel=1e-4, abs=1e-5)
        assert found.losses[i].item() == pytest.approx(-c - 0.3 * math.log(odds / (1 + odds)), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_odds_part_equals_trl_in_value_and_gradient() -> None:
    """TRL takes mean log-probabilities, and gives -β log σ(log odds ratio) without the fine-tuning part."""
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


def test_certain_and_empty_answers_stay_finite() -> None:
    certain = torch.tensor([0.0, -1e8])
    none = {name: torch.zeros(2) for name in TOKENS}
    value, grad = value_and_grad(lambda x: orpo_loss(x, certain.flip(0), beta=0.1, **none).losses.sum())(
        certain
    )
    assert value.isfinite()
    assert grad.isfinite().all()
