"""Collectives over trees: this process's rows of a batch, sums over all processes, all rows of all.

Each is the identity where no group is in force (`pure.parallel.group`).

Shape letters: B rows of the whole batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad

from pure import tree
from pure.parallel.group import Group, data_group
from pure.plural import count_noun
from pure.types import Tree

BUCKET = 1 << 25
"""Bytes that are summed by one collective; more would hold a second copy of all gradients in memory."""

Result = TypeVar("Result")


def own(batch: Tree, block: int = 1) -> Tree:
    """Return this process's rows of a batch: B/n of them, one more on the first B mod n processes.

    Args:
        batch: tree of tensors [B, ...], the same on all processes.
        block: rows that stay together, such as the completions of a prompt; must divide B. Blocks are then
            counted in the place of rows.

    Returns:
        A tree of views [about B/n, ...].

    Raises:
        ValueError: if there are fewer rows than processes.
    """
    group = data_group()
    if group is None:
        return batch
    sizes = [x.shape[0] for x in tree.leaves(batch)]
    rows = min(sizes) // block if sizes else 0
    if rows < group.size:
        raise ValueError(
            f"data_parallel: expected at least {count_noun(group.size, 'row')} (prompts, groups, or rows of "
            f"a micro-batch), one for each process, got {rows}; give larger batches, or start fewer processes"
        )
    counts = [count * block for count in row_counts(rows, group.size)]
    return tree.map(lambda x: x.split(counts)[group.rank], batch)


def total(values: Tree) -> Tree:
    """Return the sums over all processes of every leaf.

    Args:
        values: tree of tensors of the same structure, shapes and dtypes on all processes.

    Returns:
        A tree like it, the same bits on all processes; no two leaves share storage.

    Raises:
        RuntimeError: under a derivative or a transform of torch.func, which has no collectives; if another
            process ended or did not take this step, once torch's timeout of the group has passed.
    """
    group = data_group()
    if group is None or group.size == 1:
        return values
    leaves, spec = tree.flatten(values)
    refuse_transforms("data_parallel", leaves)
    del values  # a leaf that nobody else holds is freed when its sum is there
    for indices in buckets(leaves):
        flat = torch.cat([leaves[i].reshape(-1) for i in indices])
        run_collective("sum of the gradients", group, dist.all_reduce, flat)
        pieces = flat.split([leaves[i].numel() for i in indices])
        for i, piece in zip(indices, pieces, strict=True):
            total_leaf = piece.view(leaves[i].shape)
            leaves[i] = total_leaf if len(indices) == 1 else total_leaf.clone()
    return tree.unflatten(spec, leaves)


def common_count(count: Tensor) -> Tensor:
    """Return the count [] by which all processes divide a loss whose gradients are summed as they arise.

    That is the sum of all counts where params are gathered layer by layer (`Group.layers`), else the count.

    Example:
        >>> common_count(torch.tensor(3.0))
        tensor(3.)
    """
    group = data_group()
    return total(count.detach()) if group is not None and group.layers else count


def every(rows: Tree, count: int) -> Tree:
    """Return the rows of all processes, in the order of their ranks; the inverse of `own`.

    Args:
        rows: tree of tensors [own rows, ...], or [own rows · G, ...] with G rows for each, adjacent.
        count: B, rows (or blocks) of the whole batch that `own` cut.

    Returns:
        A tree of tensors [B, ...], or [B G, ...].

    Raises:
        RuntimeError: as `total`.
    """
    group = data_group()
    if group is None or group.size == 1:
        return rows
    refuse_transforms("data_parallel", tree.leaves(rows))
    cuts = row_counts(count, group.size)
    return tree.map(partial(_gather_rows, group, cuts), rows)


def row_counts(count: int, size: int) -> list[int]:
    """Return the number of rows of each process.

    Example:
        >>> row_counts(7, 3)
        [3, 2, 2]
    """
    return [count // size + (rank < count % size) for rank in range(size)]


def together(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function that may fail on one process: if it raises on any, all raise that error.

    A process that raised alone would leave the others waiting in their next collective.

    Args:
        function: any callable without collectives inside.
        args: its arguments.

    Returns:
        Its result.

    Raises:
        Exception, SystemExit: this process's own error, or else that of the lowest rank that failed.

    Example:
        >>> together(max, 1, 2)
        2
    """
    group = data_group()
    if group is None or group.size == 1:
        return function(*args)
    result, error = attempt(function, *args)
    raise_first(error, group)
    return result  # type: ignore[return-value]


def raise_first(error: Exception | SystemExit | None, group: Group) -> None:
    """Raise this process's error, or else that of the lowest rank that has one, on all processes.

    Args:
        error: of this process, or None.
        group: the processes; all of them must call this.

    Raises:
        Exception, SystemExit: of the type that it has where it was raised, if its class is loaded here and
            takes its arguments, else a RuntimeError with its type's name and its text; its cause names the
            process.
    """
    errors = exchange(None if error is None else _describe(error), group)
    if error is not None:
        raise error
    for rank, described in enumerate(errors):
        if described is not None:
            raise _rebuild(*described) from RuntimeError(f"on process {rank} of {group.size}")


def exchange(value: Any, group: Group) -> list[Any]:
    """Return the values of all processes, in the order of their ranks; any small picklable values."""
    if group.size == 1:
        return [value]
    values: list[Any] = [None] * group.size
    run_collective("exchange of messages", group, dist.all_gather_object, values, value)
    return values


def buckets(
    leaves: Sequence[Tensor],
    counts: Sequence[int] | None = None,
    bucket: int | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
) -> Iterator[list[int]]:
    """Yield the indices of the leaves that one collective takes: of one dtype, and not much more bytes.

    Args:
        leaves: tensors.
        counts: elements of each, the same on all processes; None: those of the leaves.
        bucket: bytes that one collective takes, if its first leaf has not more; None: BUCKET.
        dtypes: of each leaf in the collective; None: its own.

    Example:
        >>> list(buckets([torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros(3)]))
        [[0, 2], [1]]
    """
    limit = BUCKET if bucket is None else bucket
    dtypes = [x.dtype for x in leaves] if dtypes is None else dtypes
    for dtype in dict.fromkeys(dtypes):
        indices: list[int] = []
        size = 0
        for i, x in enumerate(leaves):
            if dtypes[i] != dtype:
                continue
            nbytes = dtype.itemsize * (x.numel() if counts is None else counts[i])
            if indices and size + nbytes > limit:
                yield indices
                indices, size = [], 0
            indices.append(i)
            size += nbytes
        if indices:
            yield indices


def refuse_transforms(caller: str, values: Sequence[Tensor] = ()) -> None:
    """Refuse a collective under a derivative, which it does not have, or vmap, which has other members.

    Args:
        caller: the caller's name in an error.
        values: tensors that the collective takes, which must not require a gradient.

    Raises:
        RuntimeError: inside vmap, grad or jvp; where autograd or forward mode differentiates a step.
    """
    differentiated = torch._C._are_functorch_transforms_active()
    if not torch.compiler.is_compiling():
        differentiated = differentiated or forward_ad._current_level >= 0
        differentiated = differentiated or (torch.is_grad_enabled() and any(x.requires_grad for x in values))
    if differentiated:
        raise RuntimeError(
            f"{caller}: a step that is computed by several processes cannot be vmapped or differentiated; "
            "transform the plain stage, or its loss"
        )


def run_collective(name: str, group: Group, collective: Callable, *args: Any, **options: Any) -> None:
    """Call a collective of torch.distributed; its error says what was waited for.

    Args:
        name: of what it does, in the error.
        group: the processes.
        collective: such as `dist.all_reduce`.
        args, options: its arguments, without the group.

    Raises:
        RuntimeError: if another process ended, or did not take part within torch's timeout of the group.
    """
    if torch.compiler.is_compiling():
        collective(*args, group=group.handle, **options)
        return
    try:
        collective(*args, group=group.handle, **options)
    except RuntimeError as error:
        raise RuntimeError(
            f"data_parallel: the {name} failed: one of the {group.size} processes ended, raised an error or "
            "did not take this step; see its own message"
        ) from error


def _gather_rows(group: Group, counts: list[int], x: Tensor) -> Tensor:
    """Gathers one leaf [own rows · G, ...] -> [B G, ...]; shorter parts are padded for the collective."""
    per_row = x.shape[0] // counts[group.rank]
    counts = [count * per_row for count in counts]
    padding = x.new_zeros(max(counts) - x.shape[0], *x.shape[1:])
    padded = torch.cat([x, padding])
    parts = [torch.empty_like(padded) for _ in counts]
    run_collective("gathering of rows", group, dist.all_gather, parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def attempt(
    function: Callable[..., Result], *args: Any
) -> tuple[Result | None, Exception | SystemExit | None]:
    """Call a function, and return its result and its error, one of which is None.

    Args:
        function: any callable.
        args: its arguments.

    Example:
        >>> attempt(max, 1, 2)
        (2, None)
    """
    try:
        return function(*args), None
    except (Exception, SystemExit) as error:
        return None, error


def _describe(error: Exception | SystemExit) -> tuple[str, str, tuple, str]:
    """An error's class by module and name, its arguments if they are literals, and its text."""
    kind = type(error)
    arguments = error.__reduce__()[1]  # of an OSError, unlike `args`, with the file's name
    literal = all(isinstance(x, str | int | float | None) for x in arguments)
    text = f"{kind.__name__}: {error}"
    return kind.__module__, kind.__qualname__, tuple(arguments) if literal else (str(error),), text


def _rebuild(module: str, name: str, args: tuple, text: str) -> Exception | SystemExit:
    """The error from `_describe`; a RuntimeError if its class is not loaded, or takes other arguments."""
    kind = getattr(sys.modules.get(module), name, None)
    if isinstance(kind, type) and issubclass(kind, Exception | SystemExit):
        with suppress(TypeError, ValueError):
            return kind(*args)
    return RuntimeError(text)
