"""`pure.loss.importance`: weights compared with a float64 loop, weighted losses with TRL's."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.grpo import grpo_loss
from pure.loss.importance import IMPORTANCE_METRICS, LEVELS, importance_metrics, importance_weights
from pure.loss.ppo import ppo_policy_loss
from pure.transform.grad import value_and_grad
from tests.pure.loss.test_grpo import (
    ADVANTAGES_OF_TOKENS,
    LENGTHS,
    LOGPS,
    MASK,
    OLD,
    REFERENCE,
    TOKENS,
    trl_loss,
)

CAP = 1.3
SAMPLED = OLD + 0.5 * random.normal(random.key(9), OLD.shape)


def naive_weights(level: str) -> list[list[float]]:
    """Compute the weights of each completion's own tokens by the formula, in Python floats."""
    rows = []
    for b, length in enumerate(LENGTHS.tolist()):
        differences = [float(OLD[b, t]) - float(SAMPLED[b, t]) for t in range(length)]
        if level == "sequence":
            differences = [sum(differences)] * length
        rows.append([min(math.exp(x), CAP) for x in differences])
    return rows


@pytest.mark.parametrize("level", LEVELS)
def test_weights_equal_a_float64_loop_and_have_no_gradient(level: str) -> None:
    old = OLD.double().requires_grad_()
    weights = importance_weights(old, SAMPLED.double(), MASK, cap=CAP, level=level)
    assert not weights.requires_grad
    assert weights.dtype == torch.float64
    expected = [torch.tensor(row, dtype=torch.float64) for row in naive_weights(level)]
    for found, row, length in zip(weights, expected, LENGTHS.tolist(), strict=True):
        torch.testing.assert_close(found[:length], row, rtol=1e-12, atol=0.0)
        assert (found[length:] == 1).all()
    assert {bool(x) for x in (weights[MASK] == CAP)} == {True, False}


@pytest.mark.parametrize("level", LEVELS)
def test_weights_of_impossible_tokens_and_of_masked_nan_are_finite(level: str) -> None:
    sampled = torch.where(MASK, torch.tensor(-1e30), torch.nan)
    assert (importance_weights(OLD, sampled, MASK, cap=CAP, level=level)[MASK] == CAP).all()
    assert (importance_weights(sampled, OLD, MASK, cap=CAP, level=level)[MASK] == 0).all()
    equal = importance_weights(OLD, OLD, MASK, cap=CAP, level=level)
    assert (equal == 1).all()


def test_metrics_count_the_capped_tokens() -> None:
    weights = importance_weights(OLD, SAMPLED, MASK, cap=CAP)
    (mean, tokens), (capped, _) = importance_metrics(weights, MASK, cap=CAP).values()
    numbers = [x for row in naive_weights("token") for x in row]
    assert tokens == len(numbers) == MASK.sum()
    assert mean.item() == pytest.approx(sum(numbers), rel=1e-5)
    assert capped == sum(x == CAP for x in numbers)
    assert tuple(importance_metrics(weights, MASK, cap=CAP)) == IMPORTANCE_METRICS


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of token, sequence, got 'word'"):
        importance_weights(OLD, SAMPLED, MASK, cap=CAP, level="word")


@pytest.mark.parametrize(
    ("variant", "loss_type", "trl_level", "level"),
    [
        ("grpo", "grpo", "token", "token"),
        ("bnpo", "bnpo", "token", "token"),
        ("dr_grpo", "dr_grpo", "token", "token"),
        ("dapo", "dapo", "token", "token"),
        ("cispo", "cispo", "token", "token"),
        ("gspo", "grpo", "sequence", "sequence"),
    ],
)
def test_weighted_losses_equal_trl_in_value_and_gradient(
    variant: str, loss_type: str, trl_level: str, level: str
) -> None:
    """The KL penalty is not weighted, as in TRL; its ratio is that of its token_ or sequence_truncate."""
    difference = torch.where(MASK, OLD - SAMPLED, 0.0)
    total = difference.sum(-1, keepdim=True) if level == "sequence" else difference
    ratio = torch.clamp(torch.exp(total), max=CAP)
    weights = importance_weights(OLD, SAMPLED, MASK, cap=CAP, level=level)

    def ours(logps: Tensor) -> Tensor:
        options = {"variant": variant, "clip_low": 0.2, "clip_high": 0.3, "max_length": TOKENS}
        found = grpo_loss(
            logps,
            OLD,
            REFERENCE,
            ADVANTAGES_OF_TOKENS,
            MASK,
            beta=0.1,
            token_weights=weights,
            **options,
        )
        return found.sum / found.count

    theirs = partial(trl_loss, "GRPOTrainer", loss_type, trl_level, ratio=ratio)
    torch.testing.assert_close(
        value_and_grad(ours)(LOGPS), value_and_grad(theirs)(LOGPS), rtol=1e-4, atol=1e-6
    )


def test_the_policy_loss_of_ppo_is_weighted_token_by_token() -> None:
    advantages = random.normal(random.key(3), OLD.shape)
    weights = importance_weights(OLD, SAMPLED, MASK, cap=CAP)
    found = ppo_policy_loss(LOGPS, OLD, advantages, MASK, token_weights=weights)
    expected = sum(
        float(weights[b, t])
        * float(ppo_policy_loss(LOGPS[b : b + 1], OLD[b : b + 1], advantages[b : b + 1], _only(b, t)).sum)
        for b, t in MASK.nonzero().tolist()
    )
    assert found.sum.item() == pytest.approx(expected, rel=1e-5)
    assert found.count == MASK.sum()


def _only(row: int, token: int) -> Tensor:
    """A mask [1, T] of one token of a row."""
    mask = torch.zeros_like(MASK[row : row + 1])
    mask[0, token] = True
    return mask
