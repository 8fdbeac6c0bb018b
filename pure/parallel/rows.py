"""Rows: a tree of tensors cut along the first axis over processes, and put together again.

Outside a step a leaf is a DTensor with `Shard(0)`, which knows its whole shape and its mesh; inside, it is
this process's rows, a plain tensor, or the whole leaf, gathered by an explicit collective. (DTensor's own
operators decide by themselves when to communicate.) Everything that touches what DTensor does not document is
in this file.

Shape letters: S rows of a leaf, n processes, r this process, c = ⌈S/n⌉ rows of all but the last processes.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020; Zhao et al.,
"PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from pure import tree
from pure.parallel.dtensor import is_dtensor
from pure.parallel.group import Group, data_group, group_of
from pure.parallel.row_collectives import all_gather_rows, own_rows
from pure.types import Tree

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


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
    return any(is_dtensor(x) for x in tree.leaves(values))


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
    cut_indices = [i for i, x in enumerate(leaves) if is_dtensor(x)]
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


def wrap_rows(rows: Tree, shapes: Tree, mesh: DeviceMesh | Group | Any) -> Tree:
    """Return a tree of cut leaves from this process's rows and the shapes of the whole leaves.

    Args:
        rows: tree of plain tensors [rows of this process, ...].
        shapes: tree like it, of tensors of the whole shapes, such as `shapes_of`.
        mesh: as in `cut`.

    Returns:
        A tree of DTensors with the storage of `rows`; leaves [] stay plain.

    Raises:
        ValueError: if a leaf has other rows than this process holds.
    """
    group = group_of("rows", mesh)
    leaves, spec = tree.flatten(rows)
    device_mesh = mesh_of(mesh, next((x.device.type for x in leaves), "cpu"))
    pairs = zip(leaves, tree.leaves(shapes), strict=True)
    return tree.unflatten(spec, [_wrap_by_shape(group, device_mesh, x, y.shape) for x, y in pairs])


def own_like(values: Tree, like: Tree) -> Tree:
    """Return this process's rows of a tree, whose leaves may be whole or be rows already.

    Args:
        values: tree of plain tensors: whole, or this process's rows.
        like: tree of the same structure; its leaves that are cut say which rows.

    Returns:
        A tree of plain tensors: copies of rows of whole leaves; all others are the same tensors.
    """
    return tree.map(_own_leaf, values, like)


def shapes_of(values: Tree) -> Tree:
    """Return tensors without memory (device "meta"), of the whole shapes and the dtypes of a tree."""
    return tree.map(lambda x: torch.empty(tuple(x.shape), dtype=x.dtype, device="meta"), values)


def total_norms(norms: Tensor, like: Tree) -> Tensor:
    """Return the norms of whole leaves from those of this process's rows.

        norm_l = √(Σ_r norm_lr²)    over the processes r

    Args:
        norms: [leaves] float, norms of this process's rows of each leaf.
        like: tree whose leaves that are cut say which norms are added; the others' are the same on all.

    Returns:
        [leaves], the same bits on all processes; not finite where one of them is not.
    """
    leaves = tree.leaves(like)
    if not is_cut(like):
        return norms
    squares = norms.square()
    dist.all_reduce(squares, group=group_of_rows(leaves).handle)
    cut_leaves = torch.tensor([is_dtensor(x) for x in leaves], device=norms.device)
    return torch.where(cut_leaves, squares.sqrt(), norms)


def draw_rows(shape: Sequence[int], draw: Callable[[tuple[int, ...], int], Tensor]) -> Tensor:
    """Draw a leaf; while a sharded state is initialised, this process's rows of it, as a DTensor.

    Args:
        shape: of the whole leaf.
        draw: (shape, offset) -> the numbers from a flat index of the whole leaf on, [...] of that shape.

    Example:
        >>> draw_rows((2, 2), lambda shape, offset: offset + torch.arange(4).view(shape))
        tensor([[0, 1],
                [2, 3]])
    """
    group = data_group()
    if group is None or group.mesh is None or not len(shape):
        return draw(tuple(shape), 0)
    first, last = own_rows(shape[0], group)
    rest = torch.Size(shape[1:])
    return _make(draw((last - first, *rest), first * rest.numel()), shape[0], group.mesh)


def cut_here(values: Tree) -> Tree:
    """Return a tree cut as the states of the running stage are; the same tree where they are whole.

    Example:
        >>> cut_here({"w": torch.ones(2)})
        {'w': tensor([1., 1.])}
    """
    group = data_group()
    return values if group is None or group.mesh is None else cut(values, group.mesh)


def group_of_rows(values: Tree) -> Group:
    """Return the processes over which a tree is cut.

    Args:
        values: tree with at least one leaf that is cut.

    Raises:
        ValueError: for leaves that are cut along another axis, or over other processes than the first.
    """
    from torch.distributed.tensor import Shard

    cut_leaves = [x for x in tree.leaves(values) if is_dtensor(x)]
    mesh = cut_leaves[0].device_mesh
    for x in cut_leaves:
        if x.device_mesh is not mesh and x.device_mesh != mesh:
            raise ValueError(f"rows: one leaf is cut over {mesh}, another over {x.device_mesh}; use one mesh")
        if tuple(x.placements) != (Shard(0),):
            raise ValueError(
                "rows: expected leaves cut along the first axis over one mesh dimension, (Shard(dim=0),), "
                f"got {tuple(x.placements)}; write cut(tree, mesh), from pure.parallel.rows"
            )
    return group_of("rows", mesh)._replace(mesh=mesh)  # by which new leaves are cut over the same


def mesh_of(mesh: DeviceMesh | Group | Any, device_type: str) -> DeviceMesh:
    """Return the DeviceMesh of what `cut` takes as a mesh; DTensors need one.

    Args:
        mesh: a DeviceMesh with one dimension, a ProcessGroup, or a Group.
        device_type: of the leaves, such as "cpu", for a mesh made from a group.
    """
    if isinstance(mesh, DeviceMesh):
        return mesh
    if isinstance(mesh, Group) and mesh.mesh is not None:
        return mesh.mesh
    return DeviceMesh.from_group(group_of("rows", mesh).handle, device_type)


def _cut_leaf(group: Group, mesh: DeviceMesh, x: Tensor) -> Tensor:
    """Cuts one leaf; own rows are copied, so that the whole leaf can be freed."""
    if is_dtensor(x) or not x.ndim:
        return x
    first, last = own_rows(x.shape[0], group)
    return _make(x[first:last].clone(memory_format=torch.contiguous_format), x.shape[0], mesh)


def _make(rows: Tensor, size: int, mesh: DeviceMesh) -> DTensor:
    """A DTensor of `size` rows in all, that has the storage of `rows`."""
    if rows.device.type not in (mesh.device_type, "meta"):  # DTensor would copy the rows to the other device
        raise ValueError(
            f"rows: the leaves are on {rows.device.type}, and the mesh has devices of {mesh.device_type}; "
            f"give init_device_mesh({rows.device.type!r}, (number of processes,))"
        )
    from torch.distributed.tensor import DTensor, Shard

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


def _wrap_by_shape(group: Group, mesh: DeviceMesh, rows: Tensor, shape: torch.Size) -> Tensor:
    """Wraps rows of a leaf of this shape."""
    if not shape:
        return rows
    first, last = own_rows(shape[0], group)
    if rows.shape != (last - first, *shape[1:]):
        raise ValueError(
            f"rows: expected rows {first} to {last - 1} of a leaf {list(shape)}, got {list(rows.shape)}"
        )
    return _make(rows, shape[0], mesh)


def _local_leaf(x: Tensor) -> Tensor:
    """Own rows of a DTensor, the same storage."""
    return x._local_tensor if is_dtensor(x) else x


def _wrap_leaf(rows: Tensor, like: Tensor) -> Tensor:
    """Wraps one leaf, with the spec of `like` where it is the same."""
    if not is_dtensor(like) or is_dtensor(rows):
        return rows
    if rows.shape != like._local_tensor.shape:
        raise ValueError(
            f"rows: expected this process's rows {list(like._local_tensor.shape)} of a leaf "
            f"{list(like.shape)}, got {list(rows.shape)}; write cut(tree, mesh) for whole leaves"
        )
    if rows.dtype != like.dtype or rows.requires_grad:
        return _make(rows, like.shape[0], like.device_mesh)
    return type(like)(rows, like._spec, requires_grad=False)


def _own_leaf(x: Tensor, like: Tensor) -> Tensor:
    """Own rows of a whole leaf, or rows as they are: the shapes are equal only if all rows are own."""
    if not is_dtensor(like) or x.shape == like._local_tensor.shape:
        return x
    first, last = own_rows(like.shape[0], group_of("rows", like.device_mesh))
    return x[first:last].clone()
