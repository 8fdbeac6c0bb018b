"""The parts of plain attention: which keys are seen, how heads are grouped."""

from __future__ import annotations

import pytest
import torch

from pure import random
from pure.nn.naive import accumulation_dtype, causal_mask, grouped, masked, naive, ungrouped


def test_causal_mask_is_the_definition() -> None:
    start, segments = torch.tensor([0, 2]), torch.tensor([[0, 0, 1, 1], [5, 5, 5, 6]])
    moved = causal_mask(range(3), range(5), start, None)
    packed = causal_mask(range(1, 4), range(2, 4), None, segments)
    assert moved.tolist() == [[[j <= i + s for j in range(5)] for i in range(3)] for s in (0, 2)]
    expected = [
        [[j <= i and row[i] == row[j] for j in (2, 3)] for i in (1, 2, 3)] for row in segments.tolist()
    ]
    assert packed.tolist() == expected
    assert causal_mask(range(2), range(2), None, None).shape == (2, 2)


def test_every_query_sees_itself() -> None:
    """So that no row of scores is masked whole, whatever the segments."""
    segments = random.randint(random.key(0), (4, 50), -3, 3).long()
    assert causal_mask(range(50), range(50), None, segments).diagonal(dim1=1, dim2=2).all()


def test_grouping_and_back() -> None:
    x = random.normal(random.key(0), (2, 5, 6, 3))
    heads = grouped(x, 3)
    assert heads.shape == (2, 2, 15, 3)
    assert torch.equal(heads[1, 1, 4 * 3 + 2], x[1, 4, 5])
    assert torch.equal(ungrouped(heads, 3), x)


def test_masked_scores_vanish_in_the_softmax() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    weights = masked(torch.zeros(1, 1, 4, 2), mask).softmax(-1)
    assert weights[0, 0].tolist() == [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5]]


def test_large_scores_do_not_overflow() -> None:
    q, v = torch.full((1, 3, 1, 4), 1e4), random.normal(random.key(0), (1, 3, 1, 4))
    assert torch.equal(naive(q, q, v)[0, 0], v[0, 0])
    assert naive(q, q, v).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_are_taken_in_float32_at_least(dtype: torch.dtype) -> None:
    assert accumulation_dtype(dtype) == torch.float32
    assert accumulation_dtype(torch.float64) == torch.float64
