"""`pure.nn.naive`: causal masks, grouping of heads, and numerical range."""

from __future__ import annotations

import pytest
import torch

from pure import random
from pure.nn.naive import accumulation_dtype, causal_mask, grouped, masked, naive, ungrouped


def test_causal_masks_with_start_and_segments_equal_their_definition() -> None:
    start, segments = torch.tensor([0, 2]), torch.tensor([[0, 0, 1, 1], [5, 5, 5, 6]])
    with_start = causal_mask(range(3), range(5), start, None)
    packed = causal_mask(range(1, 4), range(2, 4), None, segments)
    assert with_start.tolist() == [[[j <= i + s for j in range(5)] for i in range(3)] for s in (0, 2)]
    for row, mask in zip(segments.tolist(), packed.tolist(), strict=True):
        assert mask == [[j <= i and row[i] == row[j] for j in (2, 3)] for i in (1, 2, 3)]
    assert causal_mask(range(2), range(2), None, None).shape == (2, 2)


def test_every_query_attends_to_itself() -> None:
    """So that no row of scores is masked completely, for any segments."""
    segments = random.randint(random.key(0), (4, 50), -3, 3).long()
    assert causal_mask(range(50), range(50), None, segments).diagonal(dim1=1, dim2=2).all()


def test_ungrouped_inverts_grouped() -> None:
    x = random.normal(random.key(0), (2, 5, 6, 3))
    heads = grouped(x, 3)
    assert heads.shape == (2, 2, 15, 3)
    assert torch.equal(heads[1, 1, 4 * 3 + 2], x[1, 4, 5])
    assert torch.equal(ungrouped(heads, 3), x)


def test_masked_scores_have_weight_zero() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    weights = masked(torch.zeros(1, 1, 4, 2), mask).softmax(-1)
    assert weights[0, 0].tolist() == [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5]]


def test_a_query_without_keys_in_its_tile_has_finite_weights() -> None:
    weights = masked(torch.zeros(1, 1, 2, 3), torch.tensor([[False, False, False]])).softmax(-1)
    assert weights.isfinite().all()


def test_products_are_in_the_dtype_of_q_and_weights_in_float32() -> None:
    q, k, v = random.normal(random.key(0), (3, 2, 40, 2, 8)).bfloat16()
    scores = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).float() * 8**-0.5
    future = torch.ones(40, 40, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1).bfloat16()
    y, expected = naive(q, k, v), (weights @ v.transpose(1, 2)).transpose(1, 2)
    assert y.dtype == torch.bfloat16
    assert (y != expected).float().mean() < 0.01


def test_large_scores_do_not_overflow() -> None:
    q, v = torch.full((1, 3, 1, 4), 1e4), random.normal(random.key(0), (1, 3, 1, 4))
    assert torch.equal(naive(q, q, v)[0, 0], v[0, 0])
    assert naive(q, q, v).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_are_computed_in_float32_or_float64(dtype: torch.dtype) -> None:
    assert accumulation_dtype(dtype) == torch.float32
    assert accumulation_dtype(torch.float64) == torch.float64


def test_a_causal_mask_with_start_takes_the_segment_at_the_place_of_each_query() -> None:
    start, segments = torch.tensor([0, 2]), torch.tensor([[0, 0, 1, 1], [5, 5, 5, 6]])
    masks = causal_mask(range(2), range(4), start, segments).tolist()
    for row, first, mask in zip(segments.tolist(), start.tolist(), masks, strict=True):
        places = [first + i for i in range(2)]
        assert mask == [[j <= i and row[i] == row[j] for j in range(4)] for i in places]


def test_dropped_weights_are_multiplied_by_their_factors() -> None:
    q, k, v = (random.normal(random.key(i), (2, 5, heads, 8)) for i, heads in enumerate((4, 2, 2)))
    factors = random.bernoulli(random.key(3), 0.5, (2, 4, 5, 5)) * 2.0
    k_full, v_full = k.repeat_interleave(2, 2), v.repeat_interleave(2, 2)
    scores = torch.einsum("btnh,bsnh->bnts", q.double(), k_full.double()) * 8**-0.5
    weights = scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    expected = torch.einsum("bnts,bsnh->btnh", weights * factors, v_full.double())
    found = naive(q, k, v, dropout_mask=factors).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
