"""The comparison's likelihood: by hand, and against TRL's formula."""

from __future__ import annotations

import math

import pytest
import torch

from pure import random
from pure.loss.reward import bradley_terry
from pure.transform.grad import grad

CHOSEN, REJECTED = (3 * random.normal(random.key(i), (5,)) for i in (1, 2))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("center", [0.0, 0.01])
def test_equals_a_loop_in_float64(margin: float, center: float) -> None:
    found = bradley_terry(CHOSEN, REJECTED, margin=margin, center=center)
    for i in range(5):
        c, r = float(CHOSEN[i]), float(REJECTED[i])
        expected = math.log1p(math.exp(-(c - r - margin))) + center * (c + r) ** 2
        assert found[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_margin_for_each_pair() -> None:
    margins = torch.arange(5.0)
    torch.testing.assert_close(
        bradley_terry(CHOSEN, REJECTED, margin=margins), bradley_terry(CHOSEN - margins, REJECTED)
    )


def test_only_differences_matter_without_centring() -> None:
    torch.testing.assert_close(
        bradley_terry(CHOSEN + 7, REJECTED + 7), bradley_terry(CHOSEN, REJECTED), atol=1e-5, rtol=1e-5
    )
    gradient = grad(lambda both: bradley_terry(*both).sum())((CHOSEN, REJECTED))
    torch.testing.assert_close(gradient[0], -gradient[1])


def test_far_scores_stay_finite() -> None:
    far = torch.tensor([1e8, -1e8])
    assert bradley_terry(far, -far).isfinite().all()


def test_scores_of_other_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected rejected \[B\] with B = 5"):
        bradley_terry(CHOSEN, REJECTED[:-1])
