"""Programs without 64-bit types, which JAX has off by default: int64 becomes int32, float64 float32.

Indices and counts fit 32 bits. What does not is refused: a constant or a number beyond 2³¹, a shift by 32
bits, a reinterpretation of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pure.interop.jax.program import Operation, Program, Shaped, Value, inputs

NARROW: Mapping[str, str] = MappingProxyType(
    {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}
)
"""64-bit dtype -> the one that stands for it."""
ADVICE = "lower it with x64=True, under `with jax.enable_x64(True):`"
_LIMITS: Mapping[str, torch.iinfo] = MappingProxyType(
    {"int64": torch.iinfo(torch.int32), "uint64": torch.iinfo(torch.uint32)}
)


def find_wide(program: Program) -> tuple[Operation, str] | None:
    """Finds what a program computes wrongly without 64-bit integers.

    Args:
        program: as `trace` makes it.

    Returns:
        The operation and what is wrong, for a message; None if 32 bits suffice. (Sums and products are not
        followed: they wrap at 2³¹.)
    """
    dtypes = _dtypes(program)
    beyond = {len(program.arguments) + i for i, x in enumerate(program.constants) if not _fits(x)}
    for operation in program.operations:
        reason = _reason(operation, [dtypes[x] for x in inputs(operation)])
        if any(x.index in beyond for x in inputs(operation)):
            reason = "a constant lies beyond the range of int32"
        if reason:
            return operation, f"{reason}; {ADVICE}"
    return None


def narrow_program(program: Program) -> Program:
    """Replaces 64-bit dtypes by those of 32 bits, in a program in which `find_wide` finds nothing.

    Raises:
        ValueError: if a constant that is a result needs 64 bits.
    """
    for x in program.constants:
        if not _fits(x):
            raise ValueError(f"lower: a constant {list(x.shape)} lies beyond the range of int32; {ADVICE}")
    return Program(
        [_narrow(x) for x in program.arguments],
        [_narrow_tensor(x) for x in program.constants],
        [
            Operation(x.name, _narrow(x.args), _narrow(x.kwargs), _narrow(x.result))
            for x in program.operations
        ],
        program.result,
    )


def narrow_array(x: Any, name: str) -> Any:
    """Checks an array that a call is given, and converts 64-bit numpy integers and floats.

    Args:
        x: an array of numpy or JAX.
        name: of the argument, for messages.

    Returns:
        The array, of at most 32 bits.

    Raises:
        ValueError: for integers beyond 32 bits, or a 64-bit JAX array.
    """
    dtype = str(x.dtype)
    if dtype not in NARROW:
        return x
    if not isinstance(x, np.ndarray | np.generic):
        raise ValueError(
            f"lower: {name} is {dtype}, and the function was lowered without 64-bit types; {ADVICE}, or "
            f"give it as {NARROW[dtype]}"
        )
    small = np.asarray(x).astype(NARROW[dtype])
    if dtype in _LIMITS and not np.array_equal(small, x):
        raise ValueError(f"lower: {name} has a number beyond the range of {NARROW[dtype]}; {ADVICE}")
    return small


def _dtypes(program: Program) -> dict[Value, str]:
    """The dtype of each tensor of a program."""
    dtypes = {Value(i): x.dtype for i, x in enumerate(program.arguments) if isinstance(x, Shaped)}
    first = len(program.arguments)
    dtypes |= {Value(first + i): str(x.dtype).removeprefix("torch.") for i, x in enumerate(program.constants)}
    first += len(program.constants)
    for i, operation in enumerate(program.operations):
        if isinstance(operation.result, Shaped):
            dtypes[Value(first + i)] = operation.result.dtype
        else:
            dtypes |= {Value(first + i, j): x.dtype for j, x in enumerate(operation.result) if x is not None}
    return dtypes


def _reason(operation: Operation, dtypes: list[str]) -> str:
    """Why an operation needs 64 bits; "" if it does not."""
    kind = operation.name.partition(".")[0]
    result = operation.result.dtype if isinstance(operation.result, Shaped) else ""
    numbers = [x for x in _numbers([operation.args, operation.kwargs]) if not isinstance(x, bool | float)]
    if result == "uint64" or "uint64" in dtypes:
        return "JAX has no uint64 without 64-bit types"
    if operation.name == "view.dtype" and "int64" in (result, *dtypes):
        return "int64 numbers are reinterpreted as bits of another width"
    if operation.name == "_to_copy.default" and result == "int64" and dtypes == ["uint32"]:
        return "uint32 numbers do not fit the int32 that stands for int64"
    if "shift" in kind and result == "int64" and any(abs(x) >= 32 for x in numbers):
        return "int64 numbers are shifted by 32 bits or more"
    if kind.startswith("slice"):  # whose end may be the largest int64
        return ""
    if "int64" in (result, *dtypes) and any(not -(1 << 31) <= x < 1 << 31 for x in numbers):
        return "a number lies beyond the range of int32"
    return ""


def _numbers(x: Any) -> Iterator[Any]:
    """The Python numbers in arguments."""
    if isinstance(x, list | dict):
        for y in x.values() if isinstance(x, dict) else x:
            yield from _numbers(y)
    elif isinstance(x, bool | int | float):
        yield x


def _fits(x: Tensor) -> bool:
    """Reports a constant whose integers fit 32 bits."""
    limits = _LIMITS.get(str(x.dtype).removeprefix("torch."))
    if limits is None or not x.numel():
        return True
    low, high = (int(y) for y in x.to(torch.int64).aminmax()) if x.dtype == torch.int64 else (0, 1 << 64)
    return limits.min <= low and high <= limits.max


def _narrow(x: Any) -> Any:
    """Replaces 64-bit dtypes in Shapeds and names."""
    if isinstance(x, Shaped):
        return Shaped(x.shape, NARROW.get(x.dtype, x.dtype))
    if isinstance(x, dict):
        return {key: _narrow(y) for key, y in x.items()}
    if isinstance(x, list):
        return [_narrow(y) for y in x]
    return NARROW.get(x, x) if isinstance(x, str) else x


def _narrow_tensor(x: Tensor) -> Tensor:
    """Converts a constant."""
    name = NARROW.get(str(x.dtype).removeprefix("torch."))
    return x if name is None else x.to(getattr(torch, name))
