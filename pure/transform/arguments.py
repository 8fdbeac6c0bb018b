"""Check the arguments of functions that other functions return; name a mistake by the public name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def require(caller: str, names: str, function: Callable, *, further: int | None = 0) -> Callable[..., Any]:
    """Returns the function, which refuses a call with too few or too many arguments in one line.

    What `hvp(f)` returns is a partial of a private function: Python's own error names that function, and not
    the call `hvp(f)(params, v)` that lacks `v`.

    Args:
        caller: the public function's name, and what it was given, such as "hvp(function)".
        names: the required arguments, in order, such as "params, v".
        function: called with them.
        further: how many more it takes; None is any number.

    Returns:
        (*arguments) -> what the function returns.

    Raises:
        TypeError: on the call.

    Example:
        >>> require("hvp(function)", "params, v", max)(1)
        Traceback (most recent call last):
        TypeError: hvp: expected 2 arguments, got 1, without v; write hvp(function)(params, v)
    """
    return partial(_call, caller, tuple(names.split(", ")), further, function)


def _call(
    caller: str, names: tuple[str, ...], further: int | None, function: Callable, *args: Any, **named: Any
) -> Any:
    """Checks the arguments, then calls."""
    missing = [name for name in names[len(args) :] if name not in named]
    most = None if further is None else len(names) + further
    if missing or (most is not None and len(args) + len(named) > most):
        count, got = f"{len(names)} arguments", len(args) + len(named)
        if further != 0:
            count = f"at least {count}" if most is None else f"{len(names)} to {most} arguments"
        without = f", without {' and '.join(missing)}" if missing else ""
        raise TypeError(
            f"{caller.partition('(')[0]}: expected {count}, got {got}{without}; write "
            f"{caller}({', '.join(names)})"
        )
    return function(*args, **named)
