"""Rows: cut, whole and their collectives, on four processes and leaves of odd shapes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from pure import random, tree
from pure.parallel import collect, row_collectives, rows
from pure.parallel.group import Group, group_of
from pure.types import Tree
from tests.crew import Crew

pytestmark = pytest.mark.processes

SIZE = 4
SHAPES = ((1,), (3, 2), (4, 2, 3), (5,), (9, 1), (0, 2), ())


def example() -> Tree:
    """A tree of several dtypes and of shapes that four processes do not divide."""
    key = random.key(0)
    values = {str(i): random.normal(random.fold_in(key, i), shape) for i, shape in enumerate(SHAPES)}
    return values | {
        "counts": [torch.arange(7), torch.arange(6, dtype=torch.uint8).view(3, 2)],
        "half": random.normal(key, (6, 2)).bfloat16(),
        "mask": torch.tensor([True, False, True, True, False]),
        "key": random.split(key, 3),
        "turned": random.normal(key, (3, 5)).T,
    }


def assert_same_bits(a: Tree, b: Tree) -> None:
    assert tree.paths(a) == tree.paths(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert torch.equal(x, y)


def check_cut_and_gather() -> None:
    mesh = init_device_mesh("cpu", (SIZE,))
    values = example()
    cut = rows.cut(values, mesh)
    assert rows.is_cut(cut)
    assert not rows.is_cut(values)
    assert_same_bits(rows.gather(cut), values)
    assert all(type(x) is torch.Tensor for x in tree.leaves(rows.gather(cut)))
    for x, y in zip(tree.leaves(cut), tree.leaves(values), strict=True):
        if not y.ndim:
            assert x is y
            continue
        assert torch.equal(rows.whole_leaf(x), y)
        assert (x.placements, x.shape, x.stride()) == ((Shard(0),), y.shape, y.contiguous().stride())
        if y.dtype == torch.float32:  # gloo scatters no others
            assert torch.equal(rows.local(x), distribute_tensor(y, mesh, [Shard(0)]).to_local())
            assert torch.equal(x.full_tensor(), y)
        own = rows.local(x)
        assert not own.numel() or own.untyped_storage().nbytes() == own.numel() * own.element_size()
    kept = rows.cut(cut, mesh)
    assert all(x is y for x, y in zip(tree.leaves(kept), tree.leaves(cut), strict=True))
    assert rows.gather(values) is values


def check_wrap() -> None:
    mesh = init_device_mesh("cpu", (SIZE,))
    cut = rows.cut(example(), mesh)
    own = rows.local(cut)
    back = rows.wrap(own, cut)
    for x, y, z in zip(tree.leaves(back), tree.leaves(cut), tree.leaves(own), strict=True):
        assert isinstance(x, DTensor) == isinstance(y, DTensor)
        assert rows.local(x).data_ptr() == z.data_ptr()
    assert_same_bits(rows.gather(back), example())
    floats = rows.wrap(tree.map(lambda x: x.double() if x.is_floating_point() else x, own), cut)
    assert floats["0"].dtype == rows.whole_leaf(floats["0"]).dtype == torch.float64
    again = rows.wrap_rows(own, rows.shapes_of(example()), mesh)
    assert_same_bits(rows.gather(again), example())
    with pytest.raises(ValueError, match=r"expected rows .* of a leaf \[7\], got \[7\]"):
        rows.wrap_rows([torch.arange(7)], [torch.arange(7)], mesh)
    with pytest.raises(ValueError, match=r"expected this process's rows .* of a leaf \[7\], got \[7\]"):
        rows.wrap(torch.zeros(7, dtype=torch.int64), cut["counts"][0])


def check_reduce_scatter_rows() -> None:
    group = group_of("test", init_device_mesh("cpu", (SIZE,)))
    key = random.key(1)
    values = [
        random.normal(random.fold_in(random.fold_in(key, i), group.rank), shape)
        for i, shape in enumerate(SHAPES)
    ]
    everywhere: list = [None] * SIZE
    dist.all_gather_object(everywhere, values)
    for own, *parts in zip(row_collectives.reduce_scatter_rows(group, values), *everywhere, strict=True):
        total = torch.stack(parts).double().sum(0)
        first, last = row_collectives.own_rows(total.shape[0], group) if total.ndim else (None, None)
        torch.testing.assert_close(own.double(), total[first:last] if total.ndim else total)
    assert_same_bits(values, everywhere[group.rank])
    halves = [x.bfloat16() for x in values]  # summed in float32, as if they had been cast before
    wide = row_collectives.reduce_scatter_rows(group, halves, dtypes=[torch.float32] * len(halves))
    assert_same_bits(wide, row_collectives.reduce_scatter_rows(group, [x.float() for x in halves]))
    assert_same_bits(halves, [x.bfloat16() for x in values])


def check_small_buckets() -> None:
    """One leaf a collective, and one bucket of all, give the same."""
    mesh = init_device_mesh("cpu", (SIZE,))
    cut = rows.cut(example(), mesh)
    before = collect.BUCKET
    collect.BUCKET = 1
    try:
        assert_same_bits(rows.gather(cut), example())
        check_reduce_scatter_rows()
    finally:
        collect.BUCKET = before


def check_groups() -> None:
    """A ProcessGroup and a Group are taken as a mesh; other devices, placements, transforms are refused."""
    with pytest.raises(
        ValueError, match=r"the leaves are on cpu, and the mesh has devices of cuda; give init"
    ):
        rows._make(torch.ones(3), 3, SimpleNamespace(device_type="cuda"))
    group = group_of("test", dist.group.WORLD)
    for mesh in (dist.group.WORLD, group):
        assert_same_bits(rows.gather(rows.cut(example(), mesh)), example())
    mesh = init_device_mesh("cpu", (SIZE,))
    other = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
    with pytest.raises(ValueError, match=r"expected leaves cut along the first axis.*Replicate"):
        rows.gather({"w": other})
    with pytest.raises(RuntimeError, match="cannot be vmapped or differentiated"):
        torch.func.vmap(lambda x: row_collectives.all_gather_rows(group, [x], [8])[0])(torch.ones(2, 2))


def test_gather_inverts_cut_and_agrees_with_dtensor(four: Crew) -> None:
    four.run(check_cut_and_gather)


def test_wrapped_rows_keep_their_storage(four: Crew) -> None:
    four.run(check_wrap)


def test_summed_rows_are_the_rows_of_the_sum(four: Crew) -> None:
    four.run(check_reduce_scatter_rows)


def test_the_size_of_a_bucket_changes_nothing(four: Crew) -> None:
    four.run(check_small_buckets)


def test_other_groups_and_placements(four: Crew) -> None:
    four.run(check_groups)


def test_own_rows_are_those_of_chunk() -> None:
    for size in range(12):
        for count in range(1, 6):
            expected = [len(part) for part in torch.arange(size).chunk(count)] if size else []
            cuts = [row_collectives.own_rows(size, Group(rank, count, None)) for rank in range(count)]
            assert [b - a for a, b in cuts if b > a] == [x for x in expected if x]


def test_without_cut_leaves_all_are_identities() -> None:
    values = example()
    for function in (rows.local, rows.gather):
        assert all(x is y for x, y in zip(tree.leaves(function(values)), tree.leaves(values), strict=True))
    assert tree.leaves(rows.wrap(values, values))[0] is tree.leaves(values)[0]
    assert rows.whole_leaf(values["0"]) is values["0"]
    with pytest.raises(ValueError, match="has not joined others"):
        rows.cut(values, object())
