"""Checks of a loss's arguments: shapes, dtypes and ranges. A compiler runs them once, while it traces.

Losses never broadcast: a column [B, 1] and a row [B] would silently become a table [B, B].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pure.number import is_int, require_number
from pure.transform.modes import has_values

KINDS: Mapping[str, Callable[[torch.dtype], bool]] = MappingProxyType({
    "float": lambda dtype: dtype.is_floating_point,
    "bool": lambda dtype: dtype == torch.bool,
    "integer": lambda dtype: dtype != torch.bool and not (dtype.is_floating_point or dtype.is_complex),
    "number": lambda dtype: dtype != torch.bool and not dtype.is_complex,
})  # fmt: skip
"""Name of a kind of dtype -> whether a dtype is of that kind."""

RANGES: Mapping[str, Callable[[Any], bool]] = MappingProxyType({
    "above 0": lambda x: 0 < x < math.inf,
    "at least 0": lambda x: 0 <= x < math.inf,
    "at least 1": lambda x: 1 <= x < math.inf,
    "above 1": lambda x: 1 < x < math.inf,
    "in [0, 1]": lambda x: 0 <= x <= 1,
    "in [0, 1)": lambda x: 0 <= x < 1,
    "in [0, 0.5)": lambda x: 0 <= x < 0.5,
    "finite": math.isfinite,
})  # fmt: skip
"""Name of a range, as it stands in the message -> whether a number is in it."""


def expect(caller: str, **given: tuple[Any, str, str]) -> None:
    """Checks that the arguments of a loss are tensors of the expected shapes and dtypes.

    Args:
        caller: the loss's name in the message.
        given: name=(tensor, dims, kind). dims has one letter for each axis, such as "B T"; a letter must have
            the same length in every argument. A leading "..." stands for any number of axes, the same in
            every argument. kind is a key of KINDS; "?" after it allows None.

    Raises:
        TypeError: if an argument is not a dense tensor, or its dtype is of another kind.
        ValueError: if a shape differs, or tensors are on two devices (a 0-d tensor may be on the CPU).

    Example:
        >>> vector, column = torch.zeros(4), torch.zeros(4, 1)
        >>> expect("loss", logps=(torch.zeros(4, 3), "B T", "float"), advantages=(vector, "B", "float"))
        >>> expect("loss", a=(vector, "B", "float"), b=(column, "B", "float"))
        Traceback (most recent call last):
        ValueError: loss: expected b [B] with B = 4 as in a, got [4, 1]; nothing is broadcast, so give it that
            shape
    """
    bound: dict[
        str, tuple[Any, str]
    ] = {}  # letter or "device" -> (length or device, the first argument with it)
    for name, (x, dims, kind) in given.items():
        if x is None and kind.endswith("?"):
            continue
        _check_kind(caller, name, x, dims, kind.rstrip("?"))
        _check_device(caller, name, x, bound)
        letters = dims.split()
        lengths = _lengths(x, letters)
        if lengths is None:
            _refuse_shape(caller, name, x, letters, bound)
            continue
        for letter, length in zip(letters, lengths, strict=True):
            if bound.setdefault(letter, (length, name))[0] != length:
                _refuse_shape(caller, name, x, letters, bound)


def check_range(caller: str, interval: str, *, optional: bool = False, **values: Any) -> None:
    """Checks that hyperparameters are numbers in a range.

    Args:
        caller: the loss's name in the message.
        interval: a key of RANGES.
        optional: let None pass.
        values: name=number. The value of a 0-d tensor is not checked: a schedule computes it during the run.

    Raises:
        TypeError: if a value is neither a number nor a tensor.
        ValueError: if a number is out of range, or a tensor has axes.

    Example:
        >>> check_range("loss", "above 0", beta=0.1)
        >>> check_range("loss", "above 0", beta=0)
        Traceback (most recent call last):
        ValueError: loss: beta must be above 0, got 0
    """
    for name, x in values.items():
        if optional and x is None:
            continue
        if not require_number(caller, name, x):
            continue
        if not RANGES[interval](x) or (isinstance(x, int) and abs(x) >= 2**63):
            raise ValueError(f"{caller}: {name} must be {interval}, got {x}")


def may_be_nonzero(x: float | Tensor) -> bool:
    """Reports if the term with this weight must be computed: it is not 0, or a tensor, which is never read.

    Example:
        >>> may_be_nonzero(0.0), may_be_nonzero(0.1), may_be_nonzero(torch.tensor(0.0))
        (False, True, True)
    """
    return isinstance(x, Tensor) or x != 0


def check_chunk(caller: str, chunk: Any) -> None:
    """Checks that a chunk size is an int of at least 1.

    Raises:
        TypeError: for another type.
        ValueError: for an int below 1.
    """
    if not is_int(chunk):
        raise TypeError(f"{caller}: chunk must be an int or None, got {type(chunk).__name__} {chunk!r}")
    if not 1 <= chunk < 2**63:
        raise ValueError(f"{caller}: chunk must be at least 1, got {chunk}")


def check_labels(caller: str, labels: Tensor, vocabulary: int, ignore_index: int) -> None:
    """Checks that labels are in the vocabulary; only in eager code on a CPU, where reading them is free.

    On a GPU the check would wait for the device; under a transform, a compiler, a tracer (make_fx) and for
    fake tensors there are no values to check. In those cases a label outside the vocabulary makes the loss
    NaN (`chosen_logit`), and a stage skips the step and reports it.

    Args:
        caller: the loss's name in the message.
        labels: [...] integers.
        vocabulary: V.
        ignore_index: the label of ignored positions, which is allowed too.

    Raises:
        ValueError: naming the first label outside the vocabulary and its index.
    """
    if labels.device.type != "cpu" or not has_values(labels):
        return
    invalid = ((labels < 0) | (labels >= vocabulary)) & (labels != ignore_index)
    if invalid.any():
        index = invalid.nonzero()[0].tolist()
        raise ValueError(
            f"{caller}: expected labels in 0 .. {vocabulary - 1}, or {ignore_index} for an ignored position, "
            f"got {int(labels[tuple(index)])} at {index}"
        )


def upcast(x: Tensor) -> Tensor:
    """Casts bfloat16 and float16 to float32; float32 and float64 are unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_kind(caller: str, name: str, x: Any, dims: str, kind: str) -> None:
    """Checks that x is a dense tensor with a dtype of this kind."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{caller}: expected {name} to be a tensor [{_axes(dims.split())}], got {type(x).__name__}"
        )
    if x.layout != torch.strided:
        raise TypeError(
            f"{caller}: expected {name} [{_axes(dims.split())}] to be dense, got a tensor of {x.layout}; "
            "write .to_dense()"
        )
    if not KINDS[kind](x.dtype):
        hint = f"; write {name}.bool() if it holds 0 and 1" if kind == "bool" else ""
        raise TypeError(
            f"{caller}: expected {name} [{_axes(dims.split())}] of dtype {kind}, got {x.dtype}{hint}"
        )


def _check_device(caller: str, name: str, x: Tensor, bound: dict[str, tuple[Any, str]]) -> None:
    """Checks that all tensors are on one device; a 0-d tensor may be on the CPU, as in torch."""
    if x.ndim == 0 and x.device.type == "cpu":
        return
    device, first_name = bound.setdefault("device", (x.device, name))
    if x.device != device:
        raise ValueError(
            f"{caller}: expected {name} on {device} as {first_name} is, got one on {x.device}; "
            "move one of them with .to(device)"
        )


def _lengths(x: Tensor, letters: list[str]) -> list | None:
    """Lists the length of each letter (of "..." a tuple); None if x has another number of axes."""
    if letters[:1] != ["..."]:
        return list(x.shape) if x.ndim == len(letters) else None
    leading = x.ndim - len(letters) + 1  # axes that "..." stands for
    if leading < 0:
        return None
    return [tuple(x.shape[:leading]), *x.shape[leading:]]


def _refuse_shape(
    caller: str, name: str, x: Tensor, letters: list[str], bound: Mapping[str, tuple[Any, str]]
) -> None:
    """Raises a ValueError with the expected shape, the arguments that determine it, and the shape of x."""
    sources = [
        f"{letter} = {_size(bound[letter][0])} as in {bound[letter][1]}"
        for letter in letters
        if letter in bound and bound[letter][1] != name
    ]
    reason = f" with {', '.join(sources)}" if sources else ""
    raise ValueError(
        f"{caller}: expected {name} [{_axes(letters)}]{reason}, got {list(x.shape)}; nothing is broadcast, "
        "so give it that shape"
    )


def _axes(letters: list[str]) -> str:
    """["B", "T"] -> "B, T"."""
    return ", ".join(letters)


def _size(length: Any) -> str:
    """Formats a length, or the list of lengths that "..." stands for."""
    return str(list(length)) if isinstance(length, tuple) else str(length)
