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

KINDS: Mapping[str, Callable[[torch.dtype], bool]] = MappingProxyType({
    "float": lambda dtype: dtype.is_floating_point,
    "bool": lambda dtype: dtype == torch.bool,
    "integer": lambda dtype: dtype != torch.bool and not (dtype.is_floating_point or dtype.is_complex),
    "number": lambda dtype: dtype != torch.bool and not dtype.is_complex,
})  # fmt: skip
"""Kinds of dtypes that an argument may be restricted to."""

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
"""Ranges that a number may be restricted to."""


def expect(who: str, **given: tuple[Any, str, str]) -> None:
    """Refuses arguments of other shapes or dtypes than a loss expects.

    Args:
        who: the loss's name in the message.
        given: name=(tensor, dims, kind). dims are letters, such as "B T": each is one length in all
            arguments; a leading "..." is any axes, the same in all. kind is one of KINDS; with a "?" after it
            the tensor may be None.

    Raises:
        TypeError: for anything but a dense tensor, or a dtype of another kind.
        ValueError: for another shape, or tensors on two devices (a 0-d tensor may be on the CPU).

    Example:
        >>> vector, column = torch.zeros(4), torch.zeros(4, 1)
        >>> expect("loss", logps=(torch.zeros(4, 3), "B T", "float"), advantages=(vector, "B", "float"))
        >>> expect("loss", a=(vector, "B", "float"), b=(column, "B", "float"))
        Traceback (most recent call last):
        ValueError: loss: expected b [B] with B = 4 as in a, got [4, 1]; nothing is broadcast, so give it that
            shape
    """
    bound: dict[str, tuple[Any, str]] = {}
    for name, (x, dims, kind) in given.items():
        if x is None and kind.endswith("?"):
            continue
        _check_kind(who, name, x, dims, kind.rstrip("?"))
        _check_device(who, name, x, bound)
        letters = dims.split()
        lengths = _lengths(x, letters)
        if lengths is None:
            _refuse(who, name, x, letters, bound)
            continue
        for letter, length in zip(letters, lengths, strict=True):
            if bound.setdefault(letter, (length, name))[0] != length:
                _refuse(who, name, x, letters, bound)


def check_range(who: str, wanted: str, *, optional: bool = False, **values: Any) -> None:
    """Refuses hyperparameters that are out of range.

    Args:
        who: the loss's name in the message.
        wanted: one of RANGES.
        optional: let None pass.
        values: numbers; a 0-d tensor passes: its value belongs to the run (a schedule's).

    Raises:
        TypeError: for another type.
        ValueError: for a number out of range, or a tensor with axes.

    Example:
        >>> check_range("loss", "above 0", beta=0.1)
        >>> check_range("loss", "above 0", beta=0)
        Traceback (most recent call last):
        ValueError: loss: beta must be above 0, got 0
    """
    for name, x in values.items():
        if optional and x is None:
            continue
        if not require_number(who, name, x):
            continue
        if not RANGES[wanted](x) or (isinstance(x, int) and abs(x) >= 2**63):
            raise ValueError(f"{who}: {name} must be {wanted}, got {x}")


def weighs(x: float | Tensor) -> bool:
    """Reports if a term of this weight must be computed: not 0, or a tensor, whose value is not known.

    Example:
        >>> weighs(0.0), weighs(0.1), weighs(torch.tensor(0.0))
        (False, True, True)
    """
    return isinstance(x, Tensor) or x != 0


def check_chunk(who: str, chunk: Any) -> None:
    """Refuses a chunk that is not an int of at least 1.

    Raises:
        TypeError: for another type.
        ValueError: for an int below 1.
    """
    if not is_int(chunk):
        raise TypeError(f"{who}: chunk must be an int or None, got {type(chunk).__name__} {chunk!r}")
    if not 1 <= chunk < 2**63:
        raise ValueError(f"{who}: chunk must be at least 1, got {chunk}")


def check_labels(who: str, labels: Tensor, vocabulary: int, ignore_index: int) -> None:
    """Refuses labels outside the vocabulary, where reading them is free: eager code on a CPU.

    On a GPU it would wait for the device; under a transform, a compiler, a tracer (make_fx) and for fake
    tensors there are no values. There such a label makes the loss NaN (`chosen_logit`), and a stage skips the
    step and reports it.

    Args:
        who: the loss's name in the message.
        labels: [...] integers.
        vocabulary: V.
        ignore_index: a label that is allowed too.

    Raises:
        ValueError: naming the first such label and its index.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return
    if labels.device.type != "cpu" or type(labels) is not Tensor or torch._C._len_torch_dispatch_stack():
        return
    wrong = ((labels < 0) | (labels >= vocabulary)) & (labels != ignore_index)
    if wrong.any():
        index = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{who}: expected labels in 0 .. {vocabulary - 1}, or {ignore_index} for an ignored position, "
            f"got {int(labels[tuple(index)])} at {index}"
        )


def upcast(x: Tensor) -> Tensor:
    """Casts bfloat16 and float16 to float32; float32 and float64 are unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_kind(who: str, name: str, x: Any, dims: str, kind: str) -> None:
    """Refuses anything but a dense tensor of this kind."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{who}: expected {name} to be a tensor [{_written(dims.split())}], got {type(x).__name__}"
        )
    if x.layout != torch.strided:
        raise TypeError(
            f"{who}: expected {name} [{_written(dims.split())}] to be dense, got a tensor of {x.layout}"
        )
    if not KINDS[kind](x.dtype):
        hint = f"; write {name}.bool() if it holds 0 and 1" if kind == "bool" else ""
        raise TypeError(
            f"{who}: expected {name} [{_written(dims.split())}] of dtype {kind}, got {x.dtype}{hint}"
        )


def _check_device(who: str, name: str, x: Tensor, bound: dict[str, tuple[Any, str]]) -> None:
    """Refuses tensors on two devices; a 0-d tensor may be on the CPU, as in torch."""
    if x.ndim == 0 and x.device.type == "cpu":
        return
    device, first = bound.setdefault("device", (x.device, name))
    if x.device != device:
        raise ValueError(f"{who}: expected {name} on {device} as {first} is, got one on {x.device}")


def _lengths(x: Tensor, letters: list[str]) -> list | None:
    """The length of each letter, and all axes of "..."; None for another number of axes."""
    if letters[:1] != ["..."]:
        return list(x.shape) if x.ndim == len(letters) else None
    front = x.ndim - len(letters) + 1
    if front < 0:
        return None
    return [tuple(x.shape[:front]), *x.shape[front:]]


def _refuse(who: str, name: str, x: Tensor, letters: list[str], bound: Mapping[str, tuple[Any, str]]) -> None:
    """Raises the error of a wrong shape: the expected one, the arguments that determine it, and this one."""
    sources = [
        f"{letter} = {_size(bound[letter][0])} as in {bound[letter][1]}"
        for letter in letters
        if letter in bound and bound[letter][1] != name
    ]
    reason = f" with {', '.join(sources)}" if sources else ""
    raise ValueError(
        f"{who}: expected {name} [{_written(letters)}]{reason}, got {list(x.shape)}; nothing is broadcast, "
        "so give it that shape"
    )


def _written(letters: list[str]) -> str:
    """["B", "T"] -> "B, T"."""
    return ", ".join(letters)


def _size(length: Any) -> str:
    """A length, or all axes of "..."."""
    return str(list(length)) if isinstance(length, tuple) else str(length)
