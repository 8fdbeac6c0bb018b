"""Collectives over trees: this process's rows of a batch, sums over all processes, all rows of all.

Each is the identity where no group is in force (`pure.parallel.group`).

Shape letters: B rows of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pure import tree
from pure.parallel.group import Group, data_group
from pure.types import Tree

BUCKET = 1 << 25
"""Bytes that are summed by one collective; more would hold a second copy of all gradients in memory."""

ERRORS = (
    ValueError, TypeError, KeyError, IndexError, LookupError, ArithmeticError, FloatingPointError,
    ImportError, ModuleNotFoundError, OSError, FileNotFoundError, FileExistsError, PermissionError,
    TimeoutError, MemoryError, RuntimeError,
)  # fmt: skip
"""Errors that keep their type when another process raises them; any other becomes a RuntimeError."""

Result = TypeVar("Result")


def own(batch: Tree) -> Tree:
    """Return this process's rows of a batch: B/n of them, one more on the first B mod n processes.

    Args:
        batch: tree of tensors [B, ...], the same on all processes.

    Returns:
        A tree of views [about B/n, ...].

    Raises:
        ValueError: if there are fewer rows than processes.
    """
    group = data_group()
    if group is None:
        return batch
    rows = min((x.shape[0] for x in tree.leaves(batch)), default=0)
    if rows < group.size:
        raise ValueError(
            f"data_parallel: a batch of {rows} rows (groups, micro-batches) for {group.size} processes; give "
            "at least one row a process, or start fewer processes"
        )
    return tree.map(lambda x: x.tensor_split(group.size)[group.rank], batch)


def total(values: Tree) -> Tree:
    """Return the sums over all processes of every leaf.

    Args:
        values: tree of tensors of the same structure, shapes and dtypes on all processes.

    Returns:
        A tree like it, the same bits on all processes.

    Raises:
        RuntimeError: under a transform of torch.func, which has no collectives.
    """
    group = data_group()
    if group is None or group.size == 1:
        return values
    refuse_transforms("data_parallel")
    leaves, spec = tree.flatten(values)
    sums = list(leaves)
    for indices in buckets(leaves):
        flat = torch.cat([leaves[i].reshape(-1) for i in indices])
        dist.all_reduce(flat, group=group.handle)
        pieces = flat.split([leaves[i].numel() for i in indices])
        for i, piece in zip(indices, pieces, strict=True):
            sums[i] = piece.view(leaves[i].shape).clone()
    return tree.unflatten(spec, sums)


def every(rows: Tree, count: int) -> Tree:
    """Return the rows of all processes, in the order of their ranks; the inverse of `own`.

    Args:
        rows: tree of tensors [own rows, ...], or [own rows · G, ...] with G rows for each, adjacent.
        count: B, rows of the whole batch that `own` cut.

    Returns:
        A tree of tensors [B, ...], or [B G, ...].
    """
    group = data_group()
    if group is None or group.size == 1:
        return rows
    refuse_transforms("data_parallel")
    cuts = row_counts(count, group.size)
    return tree.map(partial(_gather_rows, group, cuts), rows)


def row_counts(count: int, size: int) -> list[int]:
    """Return the number of rows of each process.

    Example:
        >>> row_counts(7, 3)
        [3, 2, 2]
    """
    return [count // size + (rank < count % size) for rank in range(size)]


def by_rows(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """Return a function of params and a batch that computes this process's rows, and gathers those of all.

    Args:
        function: (params, batch) -> tree of tensors [B, ...], where row b depends on row b only.

    Returns:
        An equal function.

    Example:
        >>> by_rows(lambda w, x: w * x)(2, torch.ones(2))
        tensor([2., 2.])
    """
    return partial(_by_rows, function)


def together(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function that may fail on one process: if it raises on any, all raise that error.

    A process that raised alone would leave the others waiting in their next collective.

    Args:
        function: any callable without collectives inside.
        args: its arguments.

    Returns:
        Its result.

    Raises:
        Exception: this process's own error, or else that of the lowest rank that failed.

    Example:
        >>> together(max, 1, 2)
        2
    """
    group = data_group()
    if group is None or group.size == 1:
        return function(*args)
    result, error = None, None
    try:
        result = function(*args)
    except Exception as raised:
        error = raised
    errors = [x for x in exchange(_described(error), group) if x is not None]
    if error is not None:
        raise error
    if errors:
        raise _rebuilt(*errors[0])
    return result  # type: ignore[return-value]


def exchange(value: Any, group: Group) -> list[Any]:
    """Return the values of all processes, in the order of their ranks; any small picklable values."""
    if group.size == 1:
        return [value]
    values: list[Any] = [None] * group.size
    dist.all_gather_object(values, value, group=group.handle)
    return values


def buckets(leaves: Sequence[Tensor], counts: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Yield the indices of the leaves that one collective takes: of one dtype, and about BUCKET bytes.

    Args:
        leaves: tensors.
        counts: elements of each, the same on all processes; None: those of the leaves.

    Example:
        >>> list(buckets([torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros(3)]))
        [[0, 2], [1]]
    """
    for dtype in dict.fromkeys(x.dtype for x in leaves):
        indices: list[int] = []
        size = 0
        for i, x in enumerate(leaves):
            if x.dtype != dtype:
                continue
            nbytes = x.element_size() * (x.numel() if counts is None else counts[i])
            if indices and size + nbytes > BUCKET:
                yield indices
                indices, size = [], 0
            indices.append(i)
            size += nbytes
        if indices:
            yield indices


def refuse_transforms(caller: str) -> None:
    """Refuse a collective under torch.func, where each process would combine values of other meanings.

    Raises:
        RuntimeError: inside vmap, grad or jvp.
    """
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{caller}: a step that is computed by several processes cannot be vmapped or differentiated; "
            "transform the plain stage, or its loss"
        )


def _by_rows(function: Callable[..., Tree], params: Tree, batch: Tree) -> Tree:
    """Computes own rows, and gathers all."""
    return every(function(params, own(batch)), tree.leaves(batch)[0].shape[0])


def _gather_rows(group: Group, counts: list[int], x: Tensor) -> Tensor:
    """Gathers one leaf [own rows · G, ...] -> [B G, ...]; shorter parts are padded for the collective."""
    per_row = x.shape[0] // counts[group.rank]
    counts = [count * per_row for count in counts]
    padding = x.new_zeros(max(counts) - x.shape[0], *x.shape[1:])
    padded = torch.cat([x, padding])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group.handle)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _described(error: Exception | None) -> tuple[str, tuple, str] | None:
    """An error as its type's name, its arguments if they are literals, and its text."""
    if error is None:
        return None
    literal = all(isinstance(x, str | int | float | None) for x in error.args)
    return type(error).__name__, error.args if literal else (), str(error)


def _rebuilt(name: str, args: tuple, text: str) -> Exception:
    """The error from `_described`: a built-in one of the same type, or else a RuntimeError with its text."""
    kind = next((kind for kind in ERRORS if kind.__name__ == name), None)
    return RuntimeError(f"{name}: {text}") if kind is None else kind(*(args or (text,)))
