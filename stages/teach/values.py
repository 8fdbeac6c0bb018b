"""Copies of arguments, and the first difference between two results: what the check compares.

A result is a tree of tensors, arrays, numbers, texts, tuples, lists, dicts, sets and dataclasses. Two leaves
are equal if type, shape, dtype and device are, and the numbers are within the tolerance of their dtype.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from stages.teach import messages

TOLERANCES: Mapping[torch.dtype, tuple[float, float]] = MappingProxyType(
    {
        torch.float64: (1e-8, 1e-10),
        torch.complex128: (1e-8, 1e-10),
        torch.float32: (1e-4, 1e-5),
        torch.complex64: (1e-4, 1e-5),
        torch.bfloat16: (2e-2, 1e-2),
        torch.float16: (2e-3, 1e-3),
    }
)
"""dtype -> largest difference of two values, relative to the value and to the tensor's largest one."""

SMALLEST = 1e-12
"""Absolute difference that is always accepted."""

ATOMS = frozenset((bool, int, float, complex, str, bytes, type(None), torch.dtype))
"""Types whose values are their own copies."""

SHOWN = 400
"""Characters of a value in a report."""


class Mismatch(NamedTuple):
    """The first difference between two results.

    Fields:
        kind: key of `messages.KINDS`.
        message: sentence of `messages`.
        fields: what to fill in there.
        expected, got: texts of the two.
    """

    kind: str
    message: str
    fields: Mapping[str, Any]
    expected: str
    got: str


def copy_value(value: Any, leaf: Callable[[Tensor], Tensor] | None = None) -> Any:
    """Copies a tree of arguments; what cannot be copied (a function, a module) is returned itself.

    Args:
        value: any argument.
        leaf: makes the copy of a tensor; None detaches and clones it, and keeps `requires_grad`.

    Returns:
        The copy; what is one object in `value` is one object in it.
    """
    return _copy(value, leaf or copy_tensor, {})


def copy_tensor(x: Tensor) -> Tensor:
    """Returns a copy of a tensor as a leaf of its own."""
    return x.detach().clone().requires_grad_(x.requires_grad)


def find_mismatch(expected: Any, got: Any, place: str, *, loose: bool = False) -> Mismatch | None:
    """Finds the first difference between what ours returned and what the learner's returned.

    Args:
        expected, got: the two results.
        place: name of the result in messages; a part of it is called like `result.losses` or `result[0]`.
        loose: True compares numbers of different floating dtypes, with the larger tolerance.

    Returns:
        The difference, or None.

    Example:
        >>> find_mismatch((1.0, [2]), (1.0, [3]), "result").fields["place"]
        'result[1][0]'
    """
    if got is None and expected is not None and place == messages.RESULT:
        return _mismatch("value", messages.NOTHING, expected, got, place=place)
    if isinstance(expected, Tensor):
        return _compare_tensors(expected, got, place, loose)
    if isinstance(expected, np.ndarray):
        return _compare_arrays(expected, got, place)
    if not _are_same(type(expected), type(got)):
        return _mismatch("dtype", messages.TYPE, expected, got, place=place, as_type=True)
    if isinstance(expected, dict):
        if list(map(repr, expected)) != list(map(repr, got)) and set(expected) != set(got):
            return _mismatch("shape", messages.KEYS, list(expected), list(got), place=place)
    elif isinstance(expected, list | tuple) and len(expected) != len(got):
        fields = {"place": place, "length": len(got), "wanted": len(expected)}
        return Mismatch("shape", messages.LENGTH, fields, describe_value(expected), describe_value(got))
    parts = list_parts(expected)
    if parts is not None:
        others = dict(list_parts(got) or ())
        for name, part in parts:
            found = find_mismatch(part, others.get(name), f"{place}{name}", loose=loose)
            if found:
                return found
        return None
    return None if _equal(expected, got) else _mismatch("value", messages.VALUE, expected, got, place=place)


def list_parts(value: Any) -> list[tuple[str, Any]] | None:
    """Lists the parts of a container with their names, as `.losses`, `[0]`, `['a']`; None for a leaf."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", part) for name, part in zip(value._fields, value, strict=True)]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def list_tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a tree with their places."""
    if isinstance(value, Tensor):
        yield place, value
    for name, part in list_parts(value) or ():
        yield from list_tensors(part, f"{place}{name}")


def list_texts(value: Any) -> list[str]:
    """Lists the texts of a tree, in order.

    Example:
        >>> list_texts(((1, "k3"), {"variant": "dapo"}))
        ['k3', 'dapo']
    """
    if isinstance(value, str):
        return [value]
    return [text for _, part in list_parts(value) or () for text in list_texts(part)]


def describe_value(value: Any, limit: int = SHOWN) -> str:
    """Describes a value in at most `limit` characters: small tensors with their numbers, large ones by shape.

    Example:
        >>> describe_value({"x": torch.ones(2), "y": torch.zeros(100, 100)})
        "{'x': tensor([1., 1.]), 'y': tensor of shape [100, 100], float32, from 0 to 0}"
    """
    if isinstance(value, Tensor):
        return _describe_tensor(value)
    parts = list_parts(value)
    if parts is None:
        text = (
            _represent(value) if not callable(value) else getattr(value, "__qualname__", type(value).__name__)
        )
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key!r}: {describe_value(part)}" for key, part in value.items()) + "}"
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        left, right = ("[", "]") if isinstance(value, list) else ("(", ")")
        right = ",)" if isinstance(value, tuple) and len(value) == 1 else right
        text = left + ", ".join(describe_value(part) for _, part in parts[:50]) + right
    else:
        inner = ", ".join(f"{name[1:]}={describe_value(part)}" for name, part in parts)
        text = f"{type(value).__name__}({inner})"
    return text if len(text) <= limit else f"{text[:limit]}..."


def _represent(value: Any) -> str:
    """`repr` of a leaf, or its type if a class of the learner's has none."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _describe_tensor(x: Tensor) -> str:
    """A small tensor's numbers, or the shape, dtype and range of a large one."""
    x = x.detach()
    if x.numel() <= 24 and x.device.type != "meta":
        return " ".join(repr(x).split())
    dtype = str(x.dtype).removeprefix("torch.")
    text = f"tensor of shape {list(x.shape)}, {dtype}"
    if x.device.type == "meta" or x.is_complex() or not x.numel():
        return text
    return f"{text}, from {float(x.min()):.4g} to {float(x.max()):.4g}"


def _mismatch(
    kind: str, message: str, expected: Any, got: Any, *, as_type: bool = False, **fields: Any
) -> Mismatch:
    """Makes a Mismatch with texts of the two values, or of their types."""
    texts = [type(x).__name__ if as_type else describe_value(x) for x in (expected, got)]
    return Mismatch(kind, message, fields, *texts)


def _compare_tensors(expected: Tensor, got: Any, place: str, loose: bool) -> Mismatch | None:
    """The first difference of two tensors: type, shape, dtype, device, requires_grad, numbers."""
    if type(got) not in (Tensor, Parameter, type(expected)):  # a subclass may compare equal to anything
        return Mismatch("dtype", messages.TYPE, {"place": place}, "Tensor", type(got).__name__)
    for kind, message, mine, other in (
        ("shape", messages.SHAPE, list(expected.shape), list(got.shape)),
        ("dtype", messages.DTYPE, expected.dtype, got.dtype),
        ("dtype", messages.DEVICE, expected.device, got.device),
    ):
        may_differ = loose and expected.is_floating_point() and got.is_floating_point()
        if mine != other and not (may_differ and message == messages.DTYPE):
            return Mismatch(kind, message, {"place": place}, str(mine), str(other))
    if expected.requires_grad != got.requires_grad and not loose:
        message = messages.GRADIENT_MISSING if expected.requires_grad else messages.GRADIENT_EXTRA
        texts = [f"requires_grad={x.requires_grad}" for x in (expected, got)]
        return Mismatch("gradient", message, {"place": place}, *texts)
    if expected.device.type == "meta":
        return None
    different = count_differences(expected.detach(), got.detach())
    if different is None:
        return None
    number, index = different
    where = list(index)
    fields = {"place": place, "different": number, "total": expected.numel(), "index": where}
    small = expected.numel() <= 24
    texts = [describe_value(x) if small else f"{x[index].item():.6g}" for x in (expected, got)]
    numbers = [x[index].item() for x in (expected, got)]
    if f"{numbers[0]:.4g}" == f"{numbers[1]:.4g}":  # too few digits to see it
        texts = [repr(number) for number in numbers]
    return Mismatch("value", messages.VALUES if expected.numel() > 1 else messages.VALUE, fields, *texts)


def count_differences(expected: Tensor, got: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """Counts the numbers that differ, with the index of one of them; None if there are none.

    It is the first whose difference is at least a tenth of the largest, so that it can be seen.

    Args:
        expected, got: tensors of the same shape; of two floating dtypes the wider tolerance holds.
    """
    if not (expected.is_floating_point() or expected.is_complex()):
        same = expected == got
    else:
        relative, of_largest = max(TOLERANCES.get(x.dtype, (0.1, 0.1)) for x in (expected, got))
        wide = torch.complex128 if expected.is_complex() else torch.float64
        a, b = expected.to(wide), got.to(wide)
        finite = a.abs()[a.abs().isfinite()]
        largest = float(finite.max()) if finite.numel() else 0.0
        bound = of_largest * largest + SMALLEST
        same = torch.isclose(b, a, rtol=relative, atol=bound, equal_nan=True)
    places = torch.nonzero(~same)
    if not len(places):
        return None
    wide = torch.complex128 if expected.is_complex() else torch.float64
    gaps = (expected[~same].to(wide) - got[~same].to(wide)).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    seen = (gaps.flatten() >= gaps.max() / 10).nonzero()[0]
    return len(places), tuple(places[seen[0]].tolist())


def _compare_arrays(expected: np.ndarray, got: Any, place: str) -> Mismatch | None:
    """The first difference of two arrays of NumPy."""
    if type(got) not in (np.ndarray, type(expected)):
        return _mismatch("dtype", messages.TYPE, expected, got, place=place, as_type=True)
    if expected.shape != got.shape:
        return Mismatch(
            "shape", messages.SHAPE, {"place": place}, str(list(expected.shape)), str(list(got.shape))
        )
    if expected.dtype != got.dtype:
        return Mismatch("dtype", messages.DTYPE, {"place": place}, str(expected.dtype), str(got.dtype))
    if expected.dtype.kind in "fc":
        same = bool(np.allclose(got, expected, rtol=1e-5, atol=1e-8, equal_nan=True))
    else:
        same = bool(np.array_equal(expected, got))
    return None if same else _mismatch("value", messages.VALUE, expected, got, place=place)


def _are_same(expected: type, got: type) -> bool:
    """Tells whether two types are one, or classes of one name that have parts, which are compared."""
    has_parts = dataclasses.is_dataclass(expected) or hasattr(expected, "_fields")
    return expected is got or (has_parts and expected.__name__ == got.__name__)


def _equal(expected: Any, got: Any) -> bool:
    """Tells whether two leaves are equal. Objects that define no equality are, if their types are."""
    if isinstance(expected, float | complex):
        if isinstance(expected, float) and (math.isnan(expected) or math.isinf(expected)):
            return repr(expected) == repr(got)
        return abs(expected - got) <= 1e-6 * abs(expected) + SMALLEST
    if callable(expected) or type(expected).__eq__ is object.__eq__:
        return True
    try:
        return bool(expected == got)
    except Exception:  # an equality that cannot be decided, such as of two arrays inside an object
        return True


def _copy(value: Any, leaf: Callable[[Tensor], Tensor], memo: dict[int, tuple[Any, Any]]) -> Any:
    """`copy_value` with the copies made so far, each with its original, which keeps its id in use."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)][1]
    copied: Any
    if isinstance(value, Tensor):
        copied = leaf(value)
    elif kind is dict or (isinstance(value, dict) and hasattr(value, "copy")):
        copied = value.copy()
        copied.update({key: _copy(part, leaf, memo) for key, part in value.items()})
    elif kind is list or kind is tuple:
        copied = kind([_copy(part, leaf, memo) for part in value])
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        copied = kind._make([_copy(part, leaf, memo) for part in value])  # type: ignore[attr-defined]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(copied, field.name, _copy(getattr(value, field.name), leaf, memo))
    elif isinstance(value, np.ndarray | set | bytearray):
        copied = value.copy()
    else:
        return value
    memo[id(value)] = (value, copied)
    return copied
