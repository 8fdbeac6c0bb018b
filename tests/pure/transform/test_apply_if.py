"""`apply_if` in every mode: the side that is not taken is not computed where the condition can be read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pure.transform.apply_if import apply_if
from pure.transform.jit import jit, region
from pure.transform.trace import trace_and_compile


def doubled(condition: Tensor, x: Tensor, calls: list | None = None) -> Tensor:
    def change(values: list[Tensor], factor: Tensor) -> list[Tensor]:
        if calls is not None:
            calls.append(1)
        return [values[0] * factor]

    return apply_if(condition, change, [x], torch.tensor(2.0))[0]


def test_a_readable_condition_decides_what_is_computed() -> None:
    calls: list = []
    x = torch.tensor([1.0, 2.0, 3.0])
    assert doubled(torch.tensor(False), x, calls) is x
    assert calls == []
    assert doubled(torch.tensor(True), x, calls).tolist() == [2, 4, 6]
    mapped = torch.func.vmap(lambda c, y: doubled(c, y, calls))
    assert mapped(torch.zeros(3, dtype=torch.bool), x).tolist() == [1, 2, 3]
    assert len(calls) == 1
    assert mapped(torch.tensor([False, True, False]), x).tolist() == [1, 4, 3]
    assert torch.func.grad(lambda y: doubled(torch.tensor(True), y).sum())(x).tolist() == [2, 2, 2]
    along = torch.func.jvp(lambda y: doubled(torch.tensor(False), y), (x,), (x,))[1]
    assert along.tolist() == [1, 2, 3]


@pytest.mark.parametrize("compiler", [trace_and_compile, lambda f, backend: jit(f, backend=backend)])
def test_compiled_once_it_takes_either_side(compiler: object) -> None:
    compiled = compiler(doubled, "aot_eager")  # type: ignore[operator]
    x = torch.tensor([1.0, 2.0])
    for condition in (True, False, True):
        assert torch.equal(compiled(torch.tensor(condition), x), x * (1 + condition))


def test_a_region_takes_either_side() -> None:
    unit = region(lambda x, condition: (doubled(condition, x), {}), donate=True)
    step = jit(lambda x, condition: unit(x, condition)[0], donate=True, regions=True, backend="aot_eager")
    for condition in (False, True):
        assert torch.equal(step(torch.ones(2), torch.tensor(condition)), torch.full((2,), 1.0 + condition))
