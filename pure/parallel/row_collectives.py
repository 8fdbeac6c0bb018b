"""Collectives of rows: whole leaves from the rows of all processes, and rows of the sums of whole leaves.

Plain tensors, in buckets of about 32 MB, or of a layer; `pure.parallel.rows` has the trees.

Shape letters: S rows of a leaf, n processes.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pure import tree
from pure.parallel.attempt import before_gathering
from pure.parallel.collect import buckets, refuse_transforms, run_collective
from pure.parallel.group import Group
from pure.types import Tree


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


def all_gather_rows(
    group: Group, rows: Sequence[Tensor], sizes: Sequence[int], *, bucket: int | None = None
) -> list[Tensor]:
    """Return whole leaves from the rows of all processes, by one all-gather a bucket.

    Bytes received by a process: (n - 1)/n of the whole leaves.

    Args:
        group: the processes.
        rows: this process's rows of each leaf [about S/n, ...].
        sizes: S of each leaf.
        bucket: bytes of whole leaves that one collective gathers, about; None: 32 MB.

    Returns:
        [S, ...] of each leaf.

    Raises:
        RuntimeError: under a transform of torch.func; in a loss, if another process has failed.
    """
    if group.size == 1:
        return list(rows)
    refuse_transforms("sharded")
    before_gathering(group)
    wholes = list(rows)
    counts = [size * x.shape[1:].numel() for x, size in zip(rows, sizes, strict=True)]
    for indices in buckets(rows, counts, bucket):
        padded = [_pad(rows[i], -(-sizes[i] // group.size)) for i in indices]
        flat = _join([x.reshape(-1) for x in padded])
        everywhere = flat.new_empty(group.size * flat.numel())
        _all_gather(everywhere, flat, group)
        columns = everywhere.view(group.size, -1).split([x.numel() for x in padded], 1)
        for i, column in zip(indices, columns, strict=True):
            wholes[i] = column.reshape(-1, *rows[i].shape[1:])[: sizes[i]]
    return wholes


def reduce_scatter_rows(
    group: Group, values: Tree, *, dtypes: Sequence[torch.dtype] | None = None, bucket: int | None = None
) -> Tree:
    """Return this process's rows of the sums over all processes, by one reduce-scatter a bucket.

    Bytes received by a process: (n - 1)/n of the values. Beside the values and their rows, one bucket is in
    memory at a time.

    Args:
        group: the processes.
        values: tree of whole leaves [S, ...], of the same shapes on all processes; leaves [] are summed too.
            A leaf that nobody else holds is freed when its sum is there.
        dtypes: of the sums, one a leaf; None: those of the values.
        bucket: bytes of values that one collective sums, about; None: 32 MB.

    Returns:
        A tree of [rows of this process, ...].

    Raises:
        RuntimeError: under a transform of torch.func; if another process ended.
    """
    leaves, spec = tree.flatten(values)
    dtypes = [x.dtype for x in leaves] if dtypes is None else dtypes
    if group.size == 1:
        return tree.unflatten(spec, [x.to(dtype) for x, dtype in zip(leaves, dtypes, strict=True)])
    refuse_transforms("sharded")
    del values
    for indices in buckets(leaves, bucket=bucket, dtypes=dtypes):
        shapes = [leaves[i].shape for i in indices]
        steps = [-(-shape[0] // group.size) if shape else 1 for shape in shapes]
        parts = [_by_process(leaves[i], step, group.size) for i, step in zip(indices, steps, strict=True)]
        counts = [part.shape[1] for part in parts]
        flat = _join(parts, 1, dtypes[indices[0]])
        del parts
        summed = flat.new_empty(flat.shape[1])
        _reduce_scatter(summed, flat.reshape(-1), group)
        for i, shape, step, piece in zip(indices, shapes, steps, summed.split(counts), strict=True):
            first, last = own_rows(shape[0], group) if shape else (0, 1)
            rows = piece.view(step, *shape[1:])[: last - first] if shape else piece.view(())
            leaves[i] = rows if len(indices) == 1 else rows.clone()
    return tree.unflatten(spec, leaves)


def _pad(rows: Tensor, count: int) -> Tensor:
    """Adds rows of zeros up to `count`, which all processes must have in a collective."""
    if rows.shape[0] == count:
        return rows
    return torch.cat([rows, rows.new_zeros(count - rows.shape[0], *rows.shape[1:])])


def _join(parts: Sequence[Tensor], dim: int = 0, dtype: torch.dtype | None = None) -> Tensor:
    """Concatenates, in another dtype without a copy of the parts in it; one part alone is not copied."""
    dtype = parts[0].dtype if dtype is None else dtype
    if len(parts) == 1:
        return parts[0].to(dtype)
    if all(x.dtype == dtype for x in parts):
        return torch.cat(list(parts), dim)
    shape = list(parts[0].shape)
    shape[dim] = sum(x.shape[dim] for x in parts)
    return torch.cat(list(parts), dim, out=parts[0].new_empty(shape, dtype=dtype))


def _by_process(x: Tensor, step: int, size: int) -> Tensor:
    """A whole leaf [S, ...] as [n, elements of one process's rows], with zeros after the last row."""
    if not x.ndim:
        return x.expand(size, 1)
    return _pad(x, step * size).reshape(size, -1)


def _all_gather(output: Tensor, own: Tensor, group: Group) -> None:
    """All-gather of flat tensors, as bytes: backends have no uint32, and some no bool."""
    name = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
    gather: Callable = getattr(dist, name)
    run_collective("gathering of params", group, gather, output.view(torch.uint8), own.view(torch.uint8))


def _reduce_scatter(output: Tensor, values: Tensor, group: Group) -> None:
    """Reduce-scatter of flat tensors (a name that torch changed)."""
    name = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
    reduce: Callable = getattr(dist, name)
    run_collective("sum of the gradients", group, reduce, output, values)
