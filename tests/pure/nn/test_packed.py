"""Packed weights: the same products, in an order of memory that a CPU reads faster."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pure import random
from pure.nn.linear import linear
from pure.nn.packed import Packed, pack
from pure.transform.jit import jit

PACKS = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_packing = pytest.mark.skipif(not PACKS, reason="this CPU does not multiply packed bfloat16 matrices")


def drawn(seed: int, *shape: int) -> Tensor:
    return random.normal(random.key(seed), shape).bfloat16()


@needs_packing
@pytest.mark.parametrize("rows", [(), (1,), (3, 1), (4, 16), (200,)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_packed_product_is_as_near_to_float64_as_the_plain_one(rows: tuple[int, ...], biased: bool) -> None:
    weight, x, bias = drawn(0, 48, 80), drawn(1, *rows, 80), drawn(2, 48) if biased else None
    packed = pack(weight)
    assert isinstance(packed, Packed)
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    found = linear(packed, x, bias)
    assert found.dtype == torch.bfloat16
    assert found.shape == exact.shape
    plain, ours = ((y.double() - exact).abs().max() for y in (linear(weight, x, bias), found))
    assert ours <= 1.5 * plain + 1e-3


@needs_packing
def test_packing_copies() -> None:
    weight, x = drawn(0, 16, 32), drawn(1, 4, 32)
    packed, before = pack(weight), linear(weight, x)
    weight.zero_()
    torch.testing.assert_close(linear(packed, x), before)


@needs_packing
def test_packed_products_compile() -> None:
    packed, x, bias = pack(drawn(0, 16, 32)), drawn(1, 4, 1, 32), drawn(2, 16)
    compiled = jit(lambda packed, x, bias: linear(packed, x, bias), backend="aot_eager")
    assert torch.equal(compiled(packed, x, bias), linear(packed, x, bias))


@pytest.mark.parametrize(
    "weight",
    [torch.ones(4, 8), torch.ones(8, dtype=torch.bfloat16), torch.ones(2, 4, 8, dtype=torch.bfloat16)],
)
def test_leaves_other_than_bfloat16_matrices_are_unchanged(weight: Tensor) -> None:
    assert pack(weight) is weight


def test_where_nothing_is_packed_the_weight_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    weight = drawn(0, 16, 32)
    assert pack(weight) is weight
