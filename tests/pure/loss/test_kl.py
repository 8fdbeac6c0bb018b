"""Estimators of the divergence: by hand, in the mean over a whole vocabulary, and in their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.kl import adaptive_coefficient, kl
from pure.transform.grad import grad

POLICY, REFERENCE = (random.normal(random.key(i), (7,)).double().log_softmax(0) for i in (1, 2))
TRUE = (POLICY.exp() * (POLICY - REFERENCE)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3+"])
def test_by_hand(estimator: str) -> None:
    for policy, reference in ((-1.0, -1.5), (-3.0, -0.25), (0.0, 0.0)):
        d = reference - policy
        wanted = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1, "k3+": math.exp(d) - d - 1}[estimator]
        found = kl(torch.tensor(policy), torch.tensor(reference), estimator)
        assert found.item() == pytest.approx(wanted, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("estimator", ["k1", "k3", "k3+"])
def test_unbiased_ones_have_the_divergence_for_their_mean(estimator: str) -> None:
    mean = (POLICY.exp() * kl(POLICY, REFERENCE, estimator)).sum()
    torch.testing.assert_close(mean, TRUE)


def exact(logits: Tensor) -> Tensor:
    policy = logits.log_softmax(0)
    return (policy.exp() * (policy - REFERENCE)).sum()


def sampled(estimator: str) -> Tensor:
    """The mean gradient of the estimator over tokens drawn from the policy, which themselves have no
    gradient."""

    def mean(logits: Tensor) -> Tensor:
        return (POLICY.exp() * kl(logits.log_softmax(0), REFERENCE, estimator)).sum()

    return grad(mean)(POLICY.clone())


def test_gradients_are_what_the_docstring_says() -> None:
    true = grad(exact)(POLICY.clone())
    torch.testing.assert_close(sampled("k2"), true)
    torch.testing.assert_close(sampled("k3+"), true)
    torch.testing.assert_close(sampled("k1"), torch.zeros_like(true), atol=1e-12, rtol=0)
    reverse = grad(lambda logits: -(REFERENCE.exp() * logits.log_softmax(0)).sum())(POLICY.clone())
    torch.testing.assert_close(sampled("k3"), reverse)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3+"])
def test_absurd_ratios_stay_finite(estimator: str) -> None:
    policy = torch.tensor([-1e4, 0.0])
    gradient = grad(lambda x: kl(x, policy.flip(0), estimator).sum())(policy)
    assert kl(policy, policy.flip(0), estimator).isfinite().all()
    assert (gradient == 0).all()


def test_another_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl(POLICY, REFERENCE, "k4")


@pytest.mark.parametrize(
    ("divergence", "wanted"),
    [
        (6.0, 0.1),
        (60.0, 0.1 * (1 + 0.2 * 64 / 10000)),
        (0.0, 0.1 * (1 - 0.2 * 64 / 10000)),
        (6.6, 0.1 * (1 + 0.1 * 64 / 10000)),
        (math.nan, 0.1),
    ],
)
def test_the_coefficient_follows_the_divergence(divergence: float, wanted: float) -> None:
    found = adaptive_coefficient(
        torch.tensor(0.1), torch.tensor(divergence), target=6.0, horizon=10000, steps=64
    )
    assert found.item() == pytest.approx(wanted, rel=1e-6)
