"""`peak` counts the bytes that are alive at one moment, on real and fake tensors."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pure.transform.memory import RowBytes, fit_rows, measure_rows, peak


def three_squares(x: torch.Tensor) -> torch.Tensor:
    """[n] floats: two arrays are alive at a time, as each is freed after the next is computed."""
    x = x * x
    x = x * x
    return x * x


def test_the_peak_is_that_of_the_tensors_alive_together() -> None:
    assert peak(three_squares, torch.ones(100)) == 2 * 400
    assert peak(lambda: [torch.ones(10) for _ in range(3)]) == 120
    assert peak(lambda x: x.view(2, 5).T, torch.ones(10)) == 0
    with FakeTensorMode():
        assert peak(three_squares, torch.ones(1 << 40)) == 2 << 42


def test_rows_that_fit() -> None:
    def compute(size: int) -> torch.Tensor:
        torch.ones(100)  # once, whatever the rows
        return torch.ones(size, 10).sum(1)

    needs = measure_rows(compute, rows=4)
    assert needs == RowBytes(first=400, more=0, result=4)
    assert measure_rows(compute, rows=1).more == 0
    assert fit_rows(needs, rows=4, memory=400) == 4
    needs = RowBytes(first=100, more=50, result=10)
    assert [fit_rows(needs, 10, memory) for memory in (550, 549, 250, 249, 200, 199)] == [10, 7, 2, 1, 1, 0]
