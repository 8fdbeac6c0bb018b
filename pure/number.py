"""Check the types of numeric arguments: a bool is not a number, and the value of a 0-d tensor is not read."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import Tensor


def is_int(value: Any) -> bool:
    """Reports if a value is an int; True and False are not.

    Example:
        >>> is_int(2), is_int(True), is_int(2.0)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def require_number(caller: str, name: str, value: Any) -> bool:
    """Checks the type of a numeric argument, and tells a plain number from a 0-d tensor.

    Reading a 0-d tensor would make the host wait for the device, so only plain numbers can be range-checked.

    Args:
        caller: the caller's name, for error messages.
        name: the argument's name, for error messages.
        value: a number of Python or NumPy, or a tensor.

    Returns:
        True for a number, False for a 0-d tensor.

    Raises:
        TypeError: for another type.
        ValueError: for a tensor with axes.

    Example:
        >>> require_number("adamw", "eps", 1e-8), require_number("adamw", "eps", Tensor([1.0])[0])
        (True, False)
    """
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(
                f"{caller}: {name} must be one number or a 0-d tensor, got shape {list(value.shape)}"
            )
        return False
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{caller}: {name} must be a number or a 0-d tensor, got {type(value).__name__} {value!r}"
        )
    return True
