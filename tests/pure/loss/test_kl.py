"""`pure.loss.kl`: estimators compared with values by hand, exact means over 7 tokens, and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pure import random
from pure.loss.kl import adaptive_coefficient, exact_kl, kl
from pure.transform.grad import grad

POLICY, REFERENCE = (random.normal(random.key(i), (7,)).double().log_softmax(0) for i in (1, 2))
DIVERGENCE = (POLICY.exp() * (POLICY - REFERENCE)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3+"])
def test_estimates_equal_their_formulas(estimator: str) -> None:
    for policy, reference in ((-1.0, -1.5), (-3.0, -0.25), (0.0, 0.0)):
        d = reference - policy
        by_hand = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1, "k3+": math.exp(d) - d - 1}
        estimate = kl(torch.tensor(policy), torch.tensor(reference), estimator)
        assert estimate.item() == pytest.approx(by_hand[estimator], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("estimator", ["k1", "k3", "k3+"])
def test_the_mean_of_an_unbiased_estimator_is_the_divergence(estimator: str) -> None:
    mean = (POLICY.exp() * kl(POLICY, REFERENCE, estimator)).sum()
    torch.testing.assert_close(mean, DIVERGENCE)


def test_the_exact_divergence_is_the_sum_over_the_vocabulary_also_of_impossible_tokens() -> None:
    torch.testing.assert_close(exact_kl(POLICY + 3.0, REFERENCE - 1.0), DIVERGENCE)
    torch.testing.assert_close(
        grad(lambda x: exact_kl(x, REFERENCE))(POLICY), grad(divergence_from_reference)(POLICY)
    )
    impossible = torch.tensor([-torch.inf])
    found = exact_kl(torch.cat([POLICY, impossible]), torch.cat([REFERENCE, impossible]))
    torch.testing.assert_close(found, DIVERGENCE)
    assert exact_kl(torch.zeros(2), torch.tensor([0.0, -torch.inf])) == torch.inf


def divergence_from_reference(logits: Tensor) -> Tensor:
    policy = logits.log_softmax(0)
    return (policy.exp() * (policy - REFERENCE)).sum()


def expected_gradient(estimator: str) -> Tensor:
    """Exact mean over the tokens of the estimator's gradient; as in sampling, probabilities are constants."""

    def expectation(logits: Tensor) -> Tensor:
        return (POLICY.exp() * kl(logits.log_softmax(0), REFERENCE, estimator)).sum()

    return grad(expectation)(POLICY.clone())


def test_expected_gradients_are_those_that_the_docstring_of_kl_states() -> None:
    """k2 and k3+ have the gradient of KL(policy, reference), k1 none, k3 that of KL(reference, policy)."""
    forward = grad(divergence_from_reference)(POLICY.clone())
    torch.testing.assert_close(expected_gradient("k2"), forward)
    torch.testing.assert_close(expected_gradient("k3+"), forward)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros_like(forward), atol=1e-12, rtol=0)
    reverse = grad(lambda logits: -(REFERENCE.exp() * logits.log_softmax(0)).sum())(POLICY.clone())
    torch.testing.assert_close(expected_gradient("k3"), reverse)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3+"])
def test_estimates_of_extreme_ratios_are_finite_with_zero_gradient(estimator: str) -> None:
    policy = torch.tensor([-1e4, 0.0])
    gradient = grad(lambda x: kl(x, policy.flip(0), estimator).sum())(policy)
    assert kl(policy, policy.flip(0), estimator).isfinite().all()
    assert (gradient == 0).all()


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl(POLICY, REFERENCE, "k4")


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (6.0, 0.1),
        (60.0, 0.1 * (1 + 0.2 * 64 / 10000)),
        (0.0, 0.1 * (1 - 0.2 * 64 / 10000)),
        (6.6, 0.1 * (1 + 0.1 * 64 / 10000)),
        (math.nan, 0.1),
    ],
)
def test_the_adaptive_coefficient_clips_the_relative_error_and_ignores_nan(
    divergence: float, expected: float
) -> None:
    coefficient = adaptive_coefficient(
        torch.tensor(0.1), torch.tensor(divergence), target=6.0, horizon=10000, steps=64
    )
    assert coefficient.item() == pytest.approx(expected, rel=1e-6)
