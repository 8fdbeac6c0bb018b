"""Checks of hyperparameters, all of it Python that runs once, where an optimizer is made."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def check_fraction(who: str, **values: Any) -> None:
    """Refuses numbers outside [0, 1). A [] tensor passes: its value belongs to the run.

    Raises:
        TypeError: for what is neither a number nor a [] tensor.
        ValueError: naming `who`, the argument and the value.
    """
    for name, value in values.items():
        if _is_number(who, name, value) and not 0 <= value < 1:
            raise ValueError(f"{who}: {name} must be in [0, 1), got {value}; typical values are 0.9 to 0.999")


def check_not_negative(who: str, *, optional: bool = False, **values: Any) -> None:
    """Refuses negative numbers, NaN and infinity. A [] tensor and a schedule pass; None if `optional`.

    Raises:
        TypeError: for what is none of these.
        ValueError: naming `who`, the argument and the value.
    """
    for name, value in values.items():
        if (optional and value is None) or callable(value) or not _is_number(who, name, value):
            continue
        if not 0 <= value < float("inf"):
            raise ValueError(
                f"{who}: {name} must be a finite number >= 0, got {value}; the minus sign of descent is put in for you"
            )


def check_number(who: str, **values: Any) -> None:
    """Refuses what is neither a finite number nor a [] tensor.

    Raises:
        TypeError: for another type.
        ValueError: for NaN, infinity, or a tensor with axes.
    """
    for name, value in values.items():
        if _is_number(who, name, value) and not math.isfinite(value):
            raise ValueError(f"{who}: {name} must be a finite number, got {value}")


def check_dtype(who: str, **values: Any) -> None:
    """Refuses what is neither None nor a floating-point torch.dtype.

    Raises:
        TypeError: naming `who`, the argument and the value.
    """
    for name, value in values.items():
        if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
            raise TypeError(
                f"{who}: {name} must be None or a floating torch.dtype such as torch.float32, got {value!r}"
            )


def _is_number(who: str, name: str, value: Any) -> bool:
    """True for a plain number, False for a [] tensor; everything else is refused."""
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(
                f"{who}: {name} must be one number or a [] tensor, got shape {list(value.shape)}"
            )
        return False
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{who}: {name} must be a number or a [] tensor, got {type(value).__name__} {value!r}"
        )
    return True
