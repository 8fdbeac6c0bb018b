"""`pure.nn.single`: attention of one query token per row compared with naive attention in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pure.nn.backend import choose
from pure.nn.naive import naive
from pure.nn.single import single


def random_inputs(
    heads: int, key_heads: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return q [5, 1, N, 6], k and v [5, 9, K, 6], and the position of each row's query."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(5, t, n, 6, generator=generator) for t, n in ((1, heads), (9, key_heads), (9, key_heads))
    )
    return q.to(dtype), k.to(dtype), v.to(dtype), torch.tensor([0, 8, 3, 3, 5])


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_single_query_attention_equals_naive(heads: tuple[int, int]) -> None:
    q, k, v, start = random_inputs(*heads)
    expected = naive(q.double(), k.double(), v.double(), start=start)
    torch.testing.assert_close(single(q, k, v, start=start).double(), expected, atol=1e-6, rtol=1e-5)
    float64 = single(q.double(), k.double(), v.double(), start=start)
    torch.testing.assert_close(float64, expected, atol=1e-12, rtol=1e-12)


def test_bfloat16_is_as_close_to_float64_as_naive() -> None:
    q, k, v, start = random_inputs(4, 2, torch.bfloat16)
    expected = naive(q.double(), k.double(), v.double(), start=start)
    error, naive_error = ((f(q, k, v, start=start) - expected).abs().max() for f in (single, naive))
    assert error <= naive_error * 1.01
    assert single(q, k, v, start=start).dtype == torch.bfloat16


def test_keys_after_the_query_are_masked() -> None:
    q, k, v, start = random_inputs(4, 2)
    after = torch.arange(9)[:, None, None] > start[:, None, None, None]
    with_huge = single(q, torch.where(after, 1e9, k), torch.where(after, 1e9, v), start=start)
    assert torch.equal(with_huge, single(q, k, v, start=start))


def test_vmap_and_compiled_equal_eager() -> None:
    q, k, v, start = random_inputs(4, 2)
    expected = single(q, k, v, start=start)
    mapped = torch.func.vmap(lambda q, k, v, s: single(q[None], k[None], v[None], start=s[None])[0])(
        q, k, v, start
    )
    torch.testing.assert_close(mapped, expected)
    compiled = torch.compile(single, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v, start=start), expected)


def test_choose_selects_single_only_while_compiling() -> None:
    q, k, v, start = random_inputs(4, 2)
    assert choose("auto", q, k) is naive
    chosen: list = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        chosen.append(choose("auto", q, k).__name__)
        return choose("auto", q, k)(q, k, v, start=start)

    torch.testing.assert_close(
        torch.compile(attend, backend="eager", fullgraph=True)(q, k, v), naive(q, k, v, start=start)
    )
    assert chosen == ["single"]


def test_half_precision_is_rounded_once() -> None:
    q, k, v, start = random_inputs(4, 2, torch.bfloat16)
    y, expected = single(q, k, v, start=start), single(q.float(), k.float(), v.float(), start=start)
    assert torch.equal(y, expected.bfloat16())


def test_several_queries_segments_or_dropout_are_refused() -> None:
    q, k, v, start = random_inputs(4, 2)
    for arguments in (
        {"q": q.expand(-1, 2, -1, -1)},
        {"segment_ids": torch.zeros(5, 1)},
        {"dropout_mask": torch.ones(5, 4, 1, 9)},
    ):
        with pytest.raises(ValueError, match="use backend='naive'"):
            single(**({"q": q, "k": k, "v": v, "start": start} | arguments))
