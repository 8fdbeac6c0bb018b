"""Groups: where they come from, and where they are in force."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pure.parallel.group import Group, data_group, group_of, is_grouped, run_within, within
from tests.crew import crew

pytestmark = pytest.mark.processes

ONE, OTHER = Group(0, 2, None), Group(1, 3, None)


def test_a_group_is_in_force_inside_its_block_only() -> None:
    assert data_group() is None
    with within(ONE):
        assert data_group() is ONE
        with within(OTHER):
            assert data_group() is OTHER
        assert data_group() is ONE
        with within(None):
            assert data_group() is None
            with within(OTHER):
                assert data_group() is OTHER
            assert data_group() is None
        assert data_group() is ONE
    assert data_group() is None


@pytest.mark.parametrize("group", [ONE, None], ids=["group", "none"])
def test_an_error_ends_the_block(group: Group | None) -> None:
    def fail() -> None:
        assert data_group() is group
        raise KeyError("inside")

    with within(OTHER):
        with pytest.raises(KeyError):
            run_within(fail, group)
        assert data_group() is OTHER
    assert data_group() is None


def test_a_function_is_called_within_a_group() -> None:
    def describe(x: int, *, factor: int) -> tuple[int, Group | None]:
        return x * factor, data_group()

    assert run_within(describe, ONE, 3, factor=2) == (6, ONE)
    assert is_grouped(partial(run_within, describe, ONE))
    assert not is_grouped(partial(describe, factor=1))
    assert not is_grouped(describe)


def test_a_group_passes_and_others_need_processes() -> None:
    assert group_of("test", ONE) is ONE
    for mesh in (None, 2, "cpu"):
        with pytest.raises(
            ValueError, match="test: this process has not joined others; start it with torchrun"
        ):
            group_of("test", mesh)


def read_groups() -> dict[str, Any]:
    """Ranks, sizes or errors of groups from several kinds of mesh."""
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "data"))
    meshes = {
        "line": init_device_mesh("cpu", (4,)),
        "world": dist.group.WORLD,
        "rows": square["rows"],
        "data": square["data"],
        "handle": square.get_group("data"),
        "square": square,
        "others": DeviceMesh("cpu", [0, 2]),
        "new others": dist.new_group([0, 2]),
        "number": 4,
    }
    found: dict[str, Any] = {}
    for name, mesh in meshes.items():
        try:
            group = group_of("test", mesh)
            found[name] = group.rank, group.size
        except (ValueError, TypeError) as error:
            found[name] = str(error)
    return found


def test_meshes_of_four_processes() -> None:
    with crew(4) as four:
        results = four.run(read_groups)
    outside = "test: this process is not in the group; give one that it is in"
    for rank, found in enumerate(results):
        assert found["line"] == found["world"] == (rank, 4)
        assert found["rows"] == (rank // 2, 2)
        assert found["data"] == found["handle"] == (rank % 2, 2)
        assert found["others"] == found["new others"] == (outside if rank % 2 else (rank // 2, 2))
        assert found["square"].startswith("test: expected a mesh with one dimension, got 2; give one")
        assert found["number"].startswith("test: expected a DeviceMesh or a ProcessGroup, got int; write")
