"""Types of numbers in arguments: bools are not numbers, 0-d tensors are not looked into."""

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


def is_plain_number(who: str, name: str, value: Any) -> bool:
    """Tells a plain number from a 0-d tensor, whose value is not checked, and refuses everything else.

    Args:
        who: the caller's name in the message.
        name: the argument's name.
        value: a number of Python or NumPy, or a tensor.

    Returns:
        True for a number, False for a 0-d tensor.

    Raises:
        TypeError: for another type.
        ValueError: for a tensor with axes.

    Example:
        >>> is_plain_number("adamw", "eps", 1e-8), is_plain_number("adamw", "eps", Tensor([1.0])[0])
        (True, False)
    """
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(
                f"{who}: {name} must be one number or a 0-d tensor, got shape {list(value.shape)}"
            )
        return False
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{who}: {name} must be a number or a 0-d tensor, got {type(value).__name__} {value!r}"
        )
    return True
