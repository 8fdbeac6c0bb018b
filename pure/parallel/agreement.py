"""Agreement: each process computes its rows, and all compare what they were given and what came out.

No collective takes tensors whose structure was not compared or checked before: gloo ends a process where
sizes differ, and adds up what has the same size under another name.

Shape letters: B rows of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from pure import tree
from pure.parallel.attempt import DONE, FAILED, Attempt, exchange_largest
from pure.parallel.checksum import tree_checksum
from pure.parallel.collect import (
    attempt,
    every,
    exchange,
    own,
    raise_first,
    refuse_transforms,
)
from pure.parallel.group import Group, data_group, within
from pure.types import Tree

DIFFERENT_BATCHES = (
    "data_parallel: the batches of the processes differ; give every process the same whole batch, of which "
    "each step takes this process's rows by itself (no DistributedSampler, no slice by rank)"
)

Result = TypeVar("Result")

Facts = tuple[tuple[Any, tuple[int, ...]], ...]
"""(dtype, shape) of each leaf, without the first axis of rows; (type, ()) of what is no tensor."""

_AGREED: set[tuple[Any, int]] = set()
"""Structures (group, mark) that all processes had, so that a GPU is waited for once for each."""


def compute_in_group(
    function: Callable[[Tree], Result],
    batch: Tree,
    *,
    of_rows: bool = False,
    compared: Callable[[Result], Tree] | None = None,
) -> tuple[Result, Tensor]:
    """Compute this process's part of a step: if it fails on any process, all raise that error.

    All processes also compare their batches and the structures of their results (paths, dtypes and shapes),
    in the same collective of 24 bytes. Errors and differences are raised where reading them is free: in eager
    code on a CPU. On a GPU a structure that is new is read, which waits once; else, and compiled, the second
    result says if batches and structures are the same, and an error is raised only on the process that has
    it.

    Args:
        function: of the batch; without collectives but gatherings, which `before_gathering` precedes, unless
            the group says so (`errors_shared`). The batches are then compared before it too, so that others
            do not reach its collectives.
        batch: tree of tensors, the whole batch.
        of_rows: the result is a tree of tensors [own rows, ...]: the number of rows is not compared.
        compared: result -> the tree that must have the same structure everywhere; None: the result.

    Returns:
        (its result, [] bool: all processes have the same batch, and results of one structure).

    Raises:
        ValueError: for batches, or results, that differ.
        Exception, SystemExit: of the function, on whichever process.
        RuntimeError: as `pure.parallel.collect.total`.
    """
    group = data_group()
    if group is None or group.size == 1:
        return function(batch), torch.ones((), dtype=torch.bool)
    refuse_transforms("data_parallel")
    readable = _is_readable(batch)
    mark = tree_checksum(batch) + structure_mark(batch)
    same, error = torch.ones_like(mark, dtype=torch.bool), None
    if readable and group.errors_shared:
        shared = Attempt(mark, [])
        with within(group._replace(attempt=shared)):
            result, error = attempt(function, batch)
        if shared.ended:  # compared already, as the process that failed does not compare again
            _raise_difference(group, mark, None, of_rows, None)
    else:
        if not group.errors_shared:
            same = _compare(group, readable, mark, None)
        result = function(batch)
    values: Tree = result
    if error is None and compared is not None:
        values = compared(result)  # type: ignore[arg-type]
    same = same & _compare(group, readable, mark, values, of_rows, error)
    return result, same  # type: ignore[return-value]


def by_rows(function: Callable[..., Tree], block: int = 1) -> Callable[..., Tree]:
    """Return a function of params and a batch that computes this process's rows, and gathers those of all.

    Args:
        function: (params, batch) -> tree of tensors [B, ...], where row b depends on row b only.
        block: as in `pure.parallel.collect.own`.

    Returns:
        An equal function.

    Raises:
        ValueError: by the returned function, on several processes, for a result with another number of rows
            than its batch, or with other dtypes or shapes on another process.

    Example:
        >>> by_rows(lambda w, x: w * x)(2, torch.ones(2))
        tensor([2., 2.])
    """
    return partial(_by_rows, function, block)


def structure_mark(values: Tree, of_rows: bool = False) -> int:
    """Compute a checksum of a tree's structure: the paths, dtypes and shapes of its leaves.

    Args:
        values: tree of tensors; of anything else the type.
        of_rows: leave out the size of the first axis.

    Returns:
        An int64, the same in every process; 0 while the caller is compiled, where structures are static.

    Example:
        >>> a, b = {"x": torch.ones(2)}, {"y": torch.ones(2)}
        >>> structure_mark(a) == structure_mark({"x": torch.zeros(2)}), structure_mark(a) == structure_mark(b)
        (True, False)
    """
    if torch.compiler.is_compiling():
        return 0
    leaves, spec = tree.flatten(values)
    return _mark_of(spec, _facts(leaves, of_rows))


def describe_structure(values: Tree, of_rows: bool = False) -> dict[str, str]:
    """Describe each leaf of a tree by dtype and shape, by its path.

    Args:
        values, of_rows: as in `structure_mark`.

    Example:
        >>> describe_structure({"x": torch.ones(2, 3)}), describe_structure(torch.ones(2, 3), of_rows=True)
        ({'x': 'float32 [2, 3]'}, {'': 'float32 [rows, 3]'})
    """
    leaves = tree.leaves(values)
    axis = ("rows",) if of_rows else ()
    texts = [_describe_fact(fact, axis) for fact in _facts(leaves, of_rows)]
    return dict(zip(tree.paths(values), texts, strict=True))


def refuse_differences(caller: str, structures: list[dict[str, str]], advice: str) -> None:
    """Refuse structures that differ between processes.

    Args:
        caller: of what, in the error.
        structures: of each process, by rank, as `describe_structure` returns them.
        advice: end of the error: what to do.

    Raises:
        ValueError: naming the first leaf that differs, and the processes.

    Example:
        >>> refuse_differences("x", [{"a": "float32 []"}] * 2, "")
    """
    for path in sorted({path for structure in structures for path in structure}):
        found = [structure.get(path, "missing") for structure in structures]
        for rank, text in enumerate(found):
            if text != found[0]:
                raise ValueError(
                    f"{caller}: {path or 'the result'} is {found[0]} on process 0, and {text} on process "
                    f"{rank}; {advice}"
                )


def _by_rows(function: Callable[..., Tree], block: int, params: Tree, batch: Tree) -> Tree:
    """Computes own rows, and gathers all."""
    group = data_group()
    if group is None or group.size == 1:
        return function(params, batch)
    rows, _ = compute_in_group(partial(_compute_own, function, block, params), batch, of_rows=True)
    return every(rows, tree.leaves(batch)[0].shape[0] // block)


def _compute_own(function: Callable[..., Tree], block: int, params: Tree, batch: Tree) -> Tree:
    """Computes own rows, and checks that there are as many."""
    mine = own(batch, block)
    result, count = function(params, mine), tree.leaves(mine)[0].shape[0]
    for x in tree.leaves(result):
        if not x.ndim or x.shape[0] != count:
            raise ValueError(
                f"by_rows: expected {count} rows in each tensor of the result, as in the batch that the "
                f"function was given, got {list(x.shape)}; return [B, ...], one row for each row"
            )
    return result


def _compare(
    group: Group,
    readable: bool,
    mark: Tensor,
    result: Tree,
    of_rows: bool = False,
    error: Exception | SystemExit | None = None,
) -> Tensor:
    """Compares the marks of all processes, [] int64, and the structures of their results: [] bool."""
    structure = structure_mark(result, of_rows)
    whole = mark + structure
    largest = exchange_largest(group, whole, DONE if error is None else FAILED)
    same = largest[0] == -largest[1]
    if readable:
        if largest[2] or not same:
            _raise_difference(group, mark, result, of_rows, error)
    elif _can_wait(mark) and (group.handle, structure) not in _AGREED:
        if not same:
            raise ValueError(
                f"{DIFFERENT_BATCHES}; or the loss returned other names, dtypes or shapes on one of them"
            )
        _AGREED.add((group.handle, structure))
    return same


def _raise_difference(
    group: Group, mark: Tensor, result: Tree, of_rows: bool, error: Exception | SystemExit | None
) -> NoReturn:
    """Raises what differs, on all processes: batches, an error, or structures."""
    structure = {} if error else describe_structure(result, of_rows)
    facts = exchange((mark, structure), group)
    if not all(torch.equal(other, facts[0][0]) for other, _ in facts):
        raise ValueError(DIFFERENT_BATCHES) from error
    raise_first(error, group)
    refuse_differences(
        "data_parallel: the result of a loss, or of a function of rows, differs",
        [structure for _, structure in facts],
        "return the same names, dtypes and shapes whatever the rows are (a metric without rows is 0)",
    )
    raise AssertionError("the marks differ, and nothing else does")


def _is_readable(batch: Tree) -> bool:
    """Reports if reading a number waits for nothing: in plain eager code, on a CPU."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    return all(x.device.type == "cpu" for x in tree.leaves(batch))


def _can_wait(mark: Tensor) -> bool:
    """Reports if a number can be read at all: in plain eager code, of a tensor with memory."""
    return not (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or mark.is_meta)


def _facts(leaves: list, of_rows: bool) -> Facts:
    """Facts of the leaves."""
    facts = ((x.dtype, x.shape) if isinstance(x, Tensor) else (type(x), ()) for x in leaves)
    return tuple((kind, shape[1:]) for kind, shape in facts) if of_rows else tuple(facts)


def _describe_fact(fact: tuple[Any, tuple[int, ...]], axis: tuple[str, ...] = ()) -> str:
    """Text of a fact: "float32 [2, 3]"."""
    kind, shape = fact
    name = kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("torch.")
    return f"{name} [{', '.join(map(str, (*axis, *shape)))}]"


@lru_cache(maxsize=64)
def _mark_of(spec: Any, facts: Facts) -> int:
    """Checksum of paths and facts."""
    paths = tree.paths(tree.unflatten(spec, list(range(spec.num_leaves))))
    digest = sha256(repr((paths, [_describe_fact(fact) for fact in facts])).encode()).digest()
    return int.from_bytes(digest[:7], "big")
