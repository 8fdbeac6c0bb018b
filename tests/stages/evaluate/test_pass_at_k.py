"""`humaneval.pass_at_k` by enumeration. A module of its own, which needs no sandbox."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from stages.evaluate.humaneval import pass_at_k

COUNTS = [(n, c) for n in range(1, 7) for c in range(n + 1)]  # n samples, c of them correct


@pytest.mark.parametrize(("n", "c", "k"), [(n, c, k) for n, c in COUNTS for k in range(1, n + 1)])
def test_pass_at_k_equals_the_share_by_enumeration(n: int, c: int, k: int) -> None:
    """pass@k is the share of all choices of k of the n samples that contain a correct one."""
    choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, choices)), len(choices))))


def test_pass_at_k_refuses_invalid_counts() -> None:
    for counts in ((3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="take more samples"):
            pass_at_k(*counts)
