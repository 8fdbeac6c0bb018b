"""Checksums of tensors: equal for equal bits, whatever the layout; different for the mistakes that happen."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pure.parallel import checksum as checksums_module
from pure.parallel.checksum import checksum, checksums, tree_checksum

pytestmark = pytest.mark.processes

MASK = (1 << 64) - 1
DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)


def naive_checksum(x: Tensor) -> int:
    """The formula in Python's integers, for int64."""
    result = 0
    for i, number in enumerate(x.reshape(-1).tolist()):
        block, place = divmod(i, checksums_module.BLOCK)
        mixed = (number * checksums_module._OF_BITS) & MASK
        mixed -= (mixed >> 63) << 64
        mixed ^= mixed >> 32
        result += mixed * (2 * place + 1) * checksums_module._OF_PLACES * (2 * block + 1)
    result += sum((size + 1) * (2 * axis + 3) for axis, size in enumerate(x.shape))
    return ((result + (1 << 63)) & MASK) - (1 << 63)


def test_the_checksum_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums_module, "BLOCK", 4)
    x = torch.randint(-(2**62), 2**62, (3, 5), generator=torch.Generator().manual_seed(0))
    assert int(checksum(x)) == naive_checksum(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_bits_give_equal_checksums_in_any_layout(dtype: torch.dtype) -> None:
    x = torch.arange(24).view(4, 6).to(dtype)
    padded = torch.zeros(5, 7, dtype=dtype)
    padded[1:, 1:] = x
    layouts = [x, x.clone(), x.t().contiguous().t(), padded[1:, 1:]]
    assert len({int(checksum(layout)) for layout in layouts}) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_changed_number_changes_the_checksum(dtype: torch.dtype) -> None:
    x = (torch.arange(12) % 2).view(3, 4).to(dtype)
    seen = {int(checksum(x))}
    for row, column in itertools.product(range(3), range(4)):
        changed = x.clone()
        changed[row, column] = 1 - (row * 4 + column) % 2
        seen.add(int(checksum(changed)))
    assert len(seen) == 13


def test_mistakes_that_happen_change_the_checksum() -> None:
    """Rows in another order, another shape, a sign, two signs, a NaN."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
    signs = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, 1.0]])
    others = [
        x,
        x.flip(0),
        x.flip(1),
        x.view(2, 3),
        x.reshape(-1),
        x[:2],
        torch.cat([x, torch.zeros(1, 2)]),
        -x,
        x * signs,
        torch.where(x == 3, torch.nan, x),
        x.float(),
    ]
    assert len({int(checksum(other)) for other in others}) == len(others)
    zeros = [torch.zeros(shape) for shape in ((), (0,), (1,), (2, 3), (3, 2), (6,), (1, 6))]
    assert len({int(checksum(x)) for x in zeros}) == len(zeros)


def test_a_tree_depends_on_the_order_of_its_leaves() -> None:
    a, b = torch.arange(3), torch.arange(3) + 1
    assert tree_checksum({"x": a, "y": b}) == tree_checksum({"x": a.clone(), "y": b})
    assert tree_checksum({"x": a, "y": b}) != tree_checksum({"x": b, "y": a})
    assert checksums({}).shape == (0,)
    assert tree_checksum({}) == 0


def test_it_compiles_to_the_same_number() -> None:
    batch = {"x": torch.arange(5), "y": torch.randn(3, 2), "z": torch.ones(2, dtype=torch.bool)}
    compiled = torch.compile(tree_checksum, fullgraph=True, backend="aot_eager")
    assert compiled(batch) == tree_checksum(batch)


def test_weights_of_positions_are_int64_without_overflow() -> None:
    """Inductor folds constants in unbounded integers, and fails to write one that is too large."""
    assert (2 * checksums_module.BLOCK + 1) * checksums_module._OF_PLACES < 2**63
    assert (2 * checksums_module.BLOCK + 1) * checksums_module._OF_LEAVES < 2**63
    assert 0 < checksums_module._OF_BITS < 2**62


def test_no_argument_is_changed_and_a_gradient_does_not_matter() -> None:
    x = torch.randn(4, requires_grad=True)
    before = x.detach().clone()
    assert not checksum(x).requires_grad
    assert torch.equal(x, before)
    assert checksum(x) == checksum(before)
    assert checksum(torch.zeros(3, device="meta")).is_meta
