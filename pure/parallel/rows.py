"""Rows: a tree of tensors cut along the first axis over processes, and put together again.

Outside a step a leaf is a DTensor with `Shard(0)`, which knows its whole shape and its mesh; inside, it is
this process's rows, a plain tensor, or the whole leaf, gathered by an explicit collective. (DTensor's own
operators cost ten times as much as plain ones, and decide by themselves when to communicate.) Everything that
touches what DTensor does not document is in this file.

Shape letters: S rows of a leaf, n processes, r this process, c = ⌈S/n⌉ rows of all but the last processes.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020; Zhao et al.,
"PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from pure import tree
from pure.parallel.collect import buckets, refuse_transforms
from pure.parallel.group import Group, group_of
from pure.types import Tree


def cut(values: Tree, mesh: DeviceMesh | Group | Any) -> Tree:
    """Return a tree whose leaves are cut into rows, of which this process holds its own.

        own rows = rows r c, ..., min((r + 1) c, S) - 1,    c = ⌈S/n⌉

    Args:
        values: tree of tensors, the same on all processes; leaves that are cut already pass unchanged.
        mesh: the processes: a DeviceMesh with one dimension, a ProcessGroup, or a Group.

    Returns:
        A tree of DTensors, `Shard(0)` on the mesh, each with a copy of its own rows; leaves [] are the same
        tensors.

    Edge cases: with fewer rows than processes the last ones hold leaves without rows.

    Raises:
        ValueError: as `pure.parallel.group.group_of`.

    Source: Rajbhandari et al. 2020, section 5; the cut is that of `torch.chunk`, as DTensor has it.
    """
    group = group_of("cut", mesh)
    leaves, spec = tree.flatten(values)
    device_mesh = mesh_of(mesh, next((x.device.type for x in leaves), "cpu"))
    return tree.unflatten(spec, [_cut_leaf(group, device_mesh, x) for x in leaves])


def is_cut(values: Tree) -> bool:
    """Check if a tree has a leaf that is cut into rows.

    Example:
        >>> is_cut({"w": torch.ones(2)})
        False
    """
    return any(isinstance(x, DTensor) for x in tree.leaves(values))


def local(values: Tree) -> Tree:
    """Return a tree of plain tensors: this process's rows of the leaves that are cut, and all others.

    Args:
        values: tree of tensors, cut or not.

    Returns:
        A tree of tensors with the same storage.

    Example:
        >>> local({"w": torch.ones(2)})
        {'w': tensor([1., 1.])}
    """
    return tree.map(_local_leaf, values)


def gather(values: Tree) -> Tree:
    """Return a tree of whole plain tensors, gathered from all processes; the inverse of `cut`.

    All processes must call it at the same place. There is no gradient through it.

    Args:
        values: tree of tensors, cut or not.

    Returns:
        A tree of tensors; leaves that were not cut are the same tensors. About 32 MB are gathered by one
        collective, so that no more than that is held twice.

    Raises:
        RuntimeError: under a transform of torch.func, which has no collectives.

    Example:
        >>> gather({"w": torch.ones(2)})
        {'w': tensor([1., 1.])}
    """
    leaves, spec = tree.flatten(values)
    cut_indices = [i for i, x in enumerate(leaves) if isinstance(x, DTensor)]
    if not cut_indices:
        return values
    group = group_of_rows(leaves)
    gathered = all_gather_rows(
        group,
        [_local_leaf(leaves[i]).detach() for i in cut_indices],
        [leaves[i].shape[0] for i in cut_indices],
    )
    for i, x in zip(cut_indices, gathered, strict=True):
        leaves[i] = x
    return tree.unflatten(spec, leaves)


def whole_leaf(x: Tensor) -> Tensor:
    """Return one leaf whole, as `gather` does; a plain tensor is returned as it is."""
    return gather([x])[0]


def wrap(rows: Tree, like: Tree) -> Tree:
    """Return a tree whose leaves are cut as those of another one, from this process's rows.

    Args:
        rows: tree of plain tensors: this process's rows, where a leaf of `like` is cut.
        like: tree of the same structure.

    Returns:
        A tree of DTensors with the storage of `rows`; where `like` is not cut, the leaves of `rows`.

    Raises:
        ValueError: if a leaf has other rows than its process holds.
    """
    return tree.map(_wrap_leaf, rows, like)


def wrap_rows(rows: Tree, whole_rows: Tree, mesh: DeviceMesh | Group | Any) -> Tree:
    """Return a tree of cut leaves from this process's rows and the whole numbers of rows.

    Args:
        rows: tree of plain tensors [rows of this process, ...].
        whole_rows: tree like it, of ints: S of each leaf; None where a leaf is not cut, and stays plain.
        mesh: as in `cut`.

    Returns:
        A tree of DTensors with the storage of `rows`.
    """
    leaves, spec = tree.flatten(rows)
    device_mesh = mesh_of(mesh, next((x.device.type for x in leaves), "cpu"))
    pairs = zip(leaves, spec.flatten_up_to(whole_rows), strict=True)
    return tree.unflatten(spec, [x if size is None else _make(x, size, device_mesh) for x, size in pairs])


def own_rows(size: int, group: Group) -> tuple[int, int]:
    """Return the first row of this process, and the one after its last.

    Args:
        size: S, rows of the whole leaf.
        group: the processes.

    Example:
        >>> [own_rows(5, Group(rank, 4, None)) for rank in range(4)]
        [(0, 2), (2, 4), (4, 5), (5, 5)]
    """
    step = -(-size // group.size)
    return min(group.rank * step, size), min((group.rank + 1) * step, size)


def group_of_rows(values: Tree) -> Group:
    """Return the processes over which a tree is cut.

    Args:
        values: tree with at least one leaf that is cut.

    Raises:
        ValueError: for leaves that are cut along another axis, or over other processes than the first.
    """
    cut_leaves = [x for x in tree.leaves(values) if isinstance(x, DTensor)]
    mesh = cut_leaves[0].device_mesh
    for x in cut_leaves:
        if x.device_mesh is not mesh and x.device_mesh != mesh:
            raise ValueError(f"rows: one leaf is cut over {mesh}, another over {x.device_mesh}; use one mesh")
        if tuple(x.placements) != (Shard(0),):
            raise ValueError(
                "rows: expected leaves cut along the first axis over one mesh dimension, (Shard(dim=0),), "
                f"got {tuple(x.placements)}; write cut(tree, mesh), from pure.parallel.rows"
            )
    return group_of("rows", mesh)


def all_gather_rows(group: Group, rows: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Return whole leaves from the rows of all processes, by one all-gather a bucket of about 32 MB.

    Bytes received by a process: (n - 1)/n of the whole leaves.

    Args:
        group: the processes.
        rows: this process's rows of each leaf [about S/n, ...].
        sizes: S of each leaf.

    Returns:
        [S, ...] of each leaf.

    Raises:
        RuntimeError: under a transform of torch.func.
    """
    if group.size == 1:
        return list(rows)
    refuse_transforms("rows")
    wholes = list(rows)
    counts = [size * x.shape[1:].numel() for x, size in zip(rows, sizes, strict=True)]
    for indices in buckets(rows, counts):
        padded = [_pad(rows[i], -(-sizes[i] // group.size)) for i in indices]
        flat = torch.cat([x.reshape(-1) for x in padded])
        everywhere = flat.new_empty(group.size * flat.numel())
        _all_gather(everywhere, flat, group)
        columns = everywhere.view(group.size, -1).split([x.numel() for x in padded], 1)
        for i, column in zip(indices, columns, strict=True):
            wholes[i] = column.reshape(-1, *rows[i].shape[1:])[: sizes[i]]
    return wholes


def reduce_scatter_rows(group: Group, values: Sequence[Tensor]) -> list[Tensor]:
    """Return this process's rows of the sums over all processes, by one reduce-scatter a bucket.

    A bucket has about 32 MB. Bytes received by a process: (n - 1)/n of the values.

    Args:
        group: the processes.
        values: whole leaves [S, ...], of the same shapes on all processes; leaves [] are summed whole.

    Returns:
        [rows of this process, ...] of each leaf.

    Raises:
        RuntimeError: under a transform of torch.func.
    """
    if group.size == 1:
        return list(values)
    refuse_transforms("rows")
    sums = list(values)
    for indices in buckets(values):
        steps = [-(-values[i].shape[0] // group.size) if values[i].ndim else 1 for i in indices]
        parts = [_by_process(values[i], step, group.size) for i, step in zip(indices, steps, strict=True)]
        flat = torch.cat(parts, 1)
        summed = flat.new_empty(flat.shape[1])
        _reduce_scatter(summed, flat.reshape(-1), group)
        pieces = summed.split([part.shape[1] for part in parts])
        for i, step, piece in zip(indices, steps, pieces, strict=True):
            first, last = own_rows(values[i].shape[0], group) if values[i].ndim else (0, 1)
            rows = piece.view(step, *values[i].shape[1:])[: last - first].reshape(-1, *values[i].shape[1:])
            rows = rows if values[i].ndim else rows[0]
            sums[i] = rows if len(indices) == 1 else rows.clone()
    return sums


def mesh_of(mesh: DeviceMesh | Group | Any, device_type: str) -> DeviceMesh:
    """Return the DeviceMesh of what `cut` takes as a mesh; DTensors need one.

    Args:
        mesh: a DeviceMesh with one dimension, a ProcessGroup, or a Group.
        device_type: of the leaves, such as "cpu", for a mesh made from a group.
    """
    if isinstance(mesh, DeviceMesh):
        return mesh
    return DeviceMesh.from_group(group_of("rows", mesh).handle, device_type)


def _cut_leaf(group: Group, mesh: DeviceMesh, x: Tensor) -> Tensor:
    """Cuts one leaf; own rows are copied, so that the whole leaf can be freed."""
    if isinstance(x, DTensor) or not x.ndim:
        return x
    first, last = own_rows(x.shape[0], group)
    return _make(x[first:last].clone(memory_format=torch.contiguous_format), x.shape[0], mesh)


def _make(rows: Tensor, size: int, mesh: DeviceMesh) -> DTensor:
    """A DTensor of `size` rows in all, that has the storage of `rows`."""
    shape = torch.Size((size, *rows.shape[1:]))
    return DTensor.from_local(
        rows, mesh, (Shard(0),), run_check=False, shape=shape, stride=_contiguous_stride(shape)
    )


def _contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(size, 1))
    return tuple(strides)


def _local_leaf(x: Tensor) -> Tensor:
    """Own rows of a DTensor, the same storage."""
    return x._local_tensor if isinstance(x, DTensor) else x


def _wrap_leaf(rows: Tensor, like: Tensor) -> Tensor:
    """Wraps one leaf; `DTensor.from_local` takes ten times as long where a spec can be used again."""
    if not isinstance(like, DTensor) or isinstance(rows, DTensor):
        return rows
    if rows.shape != like._local_tensor.shape:
        raise ValueError(
            f"rows: expected this process's rows {list(like._local_tensor.shape)} of a leaf "
            f"{list(like.shape)}, got {list(rows.shape)}; write cut(tree, mesh) for whole leaves"
        )
    if rows.dtype != like.dtype or rows.requires_grad:
        return _make(rows, like.shape[0], like.device_mesh)
    return DTensor(rows, like._spec, requires_grad=False)


def _pad(rows: Tensor, count: int) -> Tensor:
    """Adds rows of zeros up to `count`, which all processes must have in a collective."""
    if rows.shape[0] == count:
        return rows
    return torch.cat([rows, rows.new_zeros(count - rows.shape[0], *rows.shape[1:])])


def _by_process(x: Tensor, step: int, size: int) -> Tensor:
    """A whole leaf [S, ...] as [n, elements of one process's rows], with zeros after the last row."""
    if not x.ndim:
        return x.expand(size, 1)
    return _pad(x, step * size).reshape(size, -1)


def _all_gather(output: Tensor, own: Tensor, group: Group) -> None:
    """All-gather of flat tensors, as bytes: backends have no uint32, and some no bool."""
    collect: Callable = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
    collect(output.view(torch.uint8), own.view(torch.uint8), group=group.handle)


def _reduce_scatter(output: Tensor, values: Tensor, group: Group) -> None:
    """Reduce-scatter of flat tensors (a name that torch changed)."""
    reduce: Callable = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
    reduce(output, values, group=group.handle)
