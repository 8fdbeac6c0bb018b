"""Agreement of processes about a checkpoint: which one, and whether all succeeded. All calls are collective.

A process that raised alone, or that chose another checkpoint, would leave the others waiting in their next
collective. They are made in the main thread only, never in one that writes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.parallel.checksum import checksum
from pure.parallel.collect import exchange
from pure.parallel.dtensor import is_dtensor
from pure.parallel.group import Group
from pure.serial.writer import SerialError
from pure.types import Tree


class _Failure(NamedTuple):
    """An error as plain values, for the other processes."""

    kind: str
    errno: int | None
    text: str


def agree(group: Group | None, error: BaseException | None, value: Any = None) -> list[Any]:
    """Exchange a value of each process; if any has an error, raise it on all.

    Args:
        group: the processes; None is this one alone.
        error: this process's error, or None.
        value: anything small that can be pickled.

    Returns:
        The values, in order of rank.

    Raises:
        BaseException: this process's own error, or else that of the lowest rank that has one; OSError,
            SerialError, ValueError and TypeError keep their type, another becomes a RuntimeError.

    Example:
        >>> agree(None, None, 5)
        [5]
    """
    if group is None or group.size == 1:
        if error is not None:
            raise error
        return [value]
    answers = exchange((None if error is None else _describe(error), value), group)
    if error is not None:
        raise error
    for failure, _ in answers:
        if failure is not None:
            raise _rebuild(failure)
    return [value for _, value in answers]


def check_replicas(group: Group | None, state: Tree) -> None:
    """Refuse a state whose leaves that are not cut differ between processes; a collective call.

    The first process writes them for all. Processes that drifted apart, or that hold parts of a leaf without
    saying so (`pure.nn.tensor_parallel`), would lose what the others have.

    Args:
        group: the processes; None is this one alone.
        state: tree of tensors and numbers.

    Raises:
        ValueError: on all processes, with the first leaf that differs.
    """
    if group is None or group.size == 1:
        return
    paths = []
    sums: list[Any] = []
    for path, leaf in zip(tree.paths(state), tree.leaves(state), strict=True):
        if not is_dtensor(leaf):
            paths.append(path)
            sums.append(checksum(leaf) if isinstance(leaf, Tensor) else leaf)
    numbers = iter(
        torch.stack([x.cpu() for x in sums if isinstance(x, Tensor)] or [torch.zeros(())]).tolist()
    )
    values = [next(numbers) if isinstance(x, Tensor) else repr(x) for x in sums]
    answers = exchange((paths, values), group)
    for rank, (other_paths, other_values) in enumerate(answers):
        differing = [path for path, a, b in zip(paths, answers[0][1], other_values, strict=False) if a != b]
        if other_paths != answers[0][0] or differing:
            leaf_path = differing[0] if differing else "the structure"
            raise ValueError(
                f"checkpoint.save: {leaf_path} is another one on process {rank} than on process 0, though it "
                "is not cut into rows; train with data_parallel or sharded, and give a tensor-parallel state "
                "whole (pure.nn.tensor_parallel.join_params)"
            )


def is_first(group: Group | None) -> bool:
    """Tell whether this process writes what all have, and prints."""
    return group is None or group.rank == 0


def size_of(group: Group | None) -> int:
    """Return the number of processes.

    Example:
        >>> size_of(None)
        1
    """
    return 1 if group is None else group.size


def _describe(error: BaseException) -> _Failure:
    """An error as plain values."""
    errno = error.errno if isinstance(error, OSError) else None
    kinds = (OSError, SerialError, ValueError, TypeError)
    kind = next((kind.__name__ for kind in kinds if isinstance(error, kind)), type(error).__name__)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _Failure(kind, errno, text)


def _rebuild(failure: _Failure) -> Exception:
    """The error from `_describe`."""
    if failure.kind == "OSError":
        return OSError(failure.errno or 0, failure.text)
    for kind in (SerialError, ValueError, TypeError):
        if failure.kind == kind.__name__:
            return kind(failure.text)
    return RuntimeError(f"{failure.kind}: {failure.text}")
