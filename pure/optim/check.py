"""Checks of hyperparameters, once, when an optimizer is built."""

from __future__ import annotations

import math
from typing import Any

import torch

from pure.number import require_number


def check_fraction(caller: str, **values: Any) -> None:
    """Refuses numbers outside [0, 1). The value of a 0-d tensor is not checked.

    Raises:
        TypeError: for another type.
        ValueError: naming `caller`, the argument and the value.
    """
    for name, value in values.items():
        if require_number(caller, name, value) and not 0 <= value < 1:
            raise ValueError(
                f"{caller}: {name} must be in [0, 1), got {value}; typical values are 0.9 to 0.999"
            )


def check_not_negative(caller: str, *, optional: bool = False, **values: Any) -> None:
    """Refuses negative numbers, NaN and infinity; accepts None if `optional`.

    The values of a 0-d tensor and of a schedule (a function) are not checked.

    Raises:
        TypeError: for another type.
        ValueError: naming `caller`, the argument and the value.
    """
    for name, value in values.items():
        if (optional and value is None) or callable(value) or not require_number(caller, name, value):
            continue
        if not 0 <= value < float("inf"):
            fix = "; the optimizer subtracts the step itself" if name == "learning_rate" else ""
            raise ValueError(f"{caller}: {name} must be a finite number >= 0, got {value}{fix}")


def check_number(caller: str, **values: Any) -> None:
    """Refuses everything but finite numbers and 0-d tensors, whose value is not checked.

    Raises:
        TypeError: for another type.
        ValueError: for NaN, infinity, or a tensor with axes.
    """
    for name, value in values.items():
        if require_number(caller, name, value) and not math.isfinite(value):
            raise ValueError(f"{caller}: {name} must be a finite number, got {value}")


def check_dtype(caller: str, **values: Any) -> None:
    """Refuses everything but None and floating-point dtypes.

    Raises:
        TypeError: naming `caller`, the argument and the value.
    """
    for name, value in values.items():
        if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
            raise TypeError(
                f"{caller}: {name} must be None or a floating torch.dtype such as torch.float32, got "
                f"{value!r}"
            )
