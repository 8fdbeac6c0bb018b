"""DTensors are told from other values, also inside a compiled function, and without importing them."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from pure.generation.slots import Overwritten
from pure.parallel.dtensor import is_dtensor
from tests.crew import Crew


def check_kinds() -> None:
    cut = distribute_tensor(torch.ones(4, 2), init_device_mesh("cpu", (2,)), [Shard(0)])
    assert is_dtensor(cut)
    assert not is_dtensor(cut.to_local())


@pytest.mark.processes
def test_a_dtensor_is_told_from_its_rows(two: Crew) -> None:
    two.run(check_kinds)


def test_no_other_value_is_one() -> None:
    kinds = (
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2).as_subclass(Overwritten),
        torch.ones(2),
        2,
        None,
    )
    assert not any(map(is_dtensor, kinds))


def test_a_compiled_function_may_ask() -> None:
    compiled = torch.compile(lambda x: x - 1 if is_dtensor(x) else x + 1, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(())).item() == 1.0
    mapped = torch.compile(torch.func.vmap(lambda x: x - is_dtensor(x)), backend="eager", fullgraph=True)
    assert mapped(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]
