"""Agreement of processes about a checkpoint: which one, and whether all succeeded. All calls are collective.

A process that raised alone, or that chose another checkpoint, would leave the others waiting in their next
collective. They are made in the main thread only, never in one that writes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pure.parallel.collect import exchange
from pure.parallel.group import Group
from pure.serial.writer import SerialError


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
