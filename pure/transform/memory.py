"""Peak memory of a function: the bytes of the tensors that it allocates, counted operation by operation.

The count is the same on every device, and exact for fake tensors too, which have shapes but no data.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pure import tree
from pure.types import Tree


class RowBytes(NamedTuple):
    """Bytes of a computation that takes one row after the other, or several at once.

    Fields:
        first: peak of one row.
        more: what each further row at the same time adds to the peak.
        result: of one row's result.
    """

    first: int
    more: int
    result: int


def peak(function: Callable, *args: Tree) -> int:
    """Runs a function, and returns the peak bytes of the tensors that it allocates.

    Args:
        function: a function of trees of tensors, fake or real.
        args: arguments of the function; their own tensors do not count.

    Returns:
        Bytes; memory that a kernel allocates inside itself is not seen.

    Example:
        Three float32 numbers, and their squares: 24 bytes at a time.

        >>> import torch
        >>> peak(lambda: torch.ones(3).square().sum())
        24
    """
    tracker = _AllocationTracker()
    with tracker:
        function(*args)
    return tracker.peak


def measure_rows(compute: Callable[[int], Tree], rows: int) -> RowBytes:
    """Measures what rows take: computes one, and two if there are two.

    Args:
        compute: number of rows -> their results, [rows, ...].
        rows: B, how many there are.

    Returns:
        RowBytes.
    """
    results: list[Tree] = []
    first = peak(lambda: results.append(compute(1)))
    result = tree.nbytes(results.pop())
    return RowBytes(first, peak(compute, 2) - first if rows > 1 else 0, result)


def fit_rows(needs: RowBytes, rows: int, memory: int) -> int:
    """Returns how many rows at a time stay below `memory`, with the results of all rows.

    Args:
        needs: measured.
        rows: B.
        memory: bytes.

    Returns:
        1 to B; 0 if not even one fits.

    Example:
        A row takes 100 bytes, each further one 50; ten results of 10 bytes are kept.

        >>> fit_rows(RowBytes(100, 50, 10), rows=10, memory=300), fit_rows(RowBytes(100, 50, 10), 10, 550)
        (3, 10)
    """
    if needs.first + needs.more * (rows - 1) <= memory:
        return rows
    room = memory - needs.result * rows - needs.first
    return 0 if room < 0 else min(rows - 1, 1 + room // max(needs.more, 1))


class _AllocationTracker(TorchDispatchMode):
    """Adds the bytes of storages that operations allocate, and subtracts those that are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.current = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        inputs = {_storage_id(x) for x in tree.leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree.leaves(out):
            if isinstance(x, Tensor) and (key := _storage_id(x)) not in self.alive and key not in inputs:
                storage = x.untyped_storage()
                self.alive[key] = storage.nbytes()
                self.current += storage.nbytes()
                weakref.finalize(storage, self.on_freed, key)
        self.peak = max(self.peak, self.current)
        return out

    def on_freed(self, key: int) -> None:
        """Subtracts a storage that was freed."""
        self.current -= self.alive.pop(key, 0)


def _storage_id(x: Tensor) -> int:
    """The address of the C++ object of the storage, which fake tensors have as well."""
    return x.untyped_storage()._cdata
