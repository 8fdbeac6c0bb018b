"""Values as short text for a learner: their shapes and types, or their numbers.

torch and NumPy are not imported: a value of theirs can only exist where they are.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

SMALL = 32
"""A tensor of at most so many numbers is written out."""

FIRST = 6
"""Numbers of a larger tensor that are written."""

PARTS = 8
"""Parts of a container that are described."""

LIMIT = 400
"""Most characters of a description."""


def describe_shape(value: Any) -> str:
    """Describes types and shapes: a tensor is `[2, 3] float32`, a number `float`, a list `list(3 × str)`.

    Example:
        >>> describe_shape((1.5, ["a", "b"], {"w": None}))
        "tuple(float, list(2 × str), {'w': None})"
    """
    return _shorten(_describe(value, _describe_type))


def describe_numbers(value: Any) -> str:
    """Describes values with four digits; of a large tensor the shape and the first numbers.

    Example:
        >>> describe_numbers([0.123456, 2, "a"])
        "[0.1235, 2, 'a']"
    """
    return _shorten(_describe(value, _describe_value))


def count_numbers(value: Any) -> int:
    """Counts the numbers, texts and other leaves of a value: a measure of how large it is."""
    if _is_array(value):
        return math.prod(value.shape)
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple | Set):
        return sum(count_numbers(part) for part in parts)
    return len(value) if isinstance(value, str | bytes) else 1


def format_number(x: float | complex) -> str:
    """Writes a number with four digits; a floating number always has a point, an exponent or no digits.

    Example:
        >>> [format_number(x) for x in (0.59814, 2.0, 12345.6, 7, float("-inf"))]
        ['0.5981', '2.0', '1.235e+04', '7', '-inf']
    """
    if isinstance(x, bool | int):
        return str(x)
    text = f"{x:.4g}"
    return f"{text}.0" if text.lstrip("-").isdigit() else text


def _describe(value: Any, leaf: Callable[[Any], str]) -> str:
    """Describes a tree by a function of its leaves."""
    if isinstance(value, Mapping):
        shown = [f"{key!r}: {_describe(part, leaf)}" for key, part in itertools.islice(value.items(), PARTS)]
        return f"{{{_join(shown, len(value))}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        shown = [f"{name}={_describe(part, leaf)}" for name, part in zip(value._fields, value, strict=True)]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, list | tuple | Set):
        return _describe_sequence(value, leaf)
    return leaf(value)


def _describe_sequence(value: Sequence[Any] | Set[Any], leaf: Callable[[Any], str]) -> str:
    """A list, tuple or set: its parts, or their common type."""
    shown = [_describe(part, leaf) for part in itertools.islice(value, PARTS)]
    if leaf is _describe_type:
        kinds = {_describe(part, leaf) for part in value}
        inner = _join(shown, len(value))
        if len(kinds) == 1 and len(value) > 1:
            inner = f"{len(value)} × {kinds.pop()}"
        return f"{type(value).__name__}({inner})"
    inner = _join(shown, len(value))
    if isinstance(value, tuple):
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return f"[{inner}]" if isinstance(value, list) else f"{{{inner}}}"


def _describe_type(value: Any) -> str:
    """Type of a leaf; shape and dtype of a tensor."""
    if value is None:
        return "None"
    if _is_array(value):
        text = f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        return text if _is_tensor(value) else f"array {text}"
    if type(value).__module__ == "torch":  # a dtype, a device
        return str(value)
    return "function" if callable(value) and not isinstance(value, type) else type(value).__name__


def _describe_value(value: Any) -> str:
    """A leaf with its numbers, where it has any."""
    if isinstance(value, int | float | complex) and not isinstance(value, bool):
        return format_number(value)
    if value is None or isinstance(value, bool | str | bytes):
        return repr(value)
    if not _is_array(value) or not _has_numbers(value):
        return _describe_type(value)
    if math.prod(value.shape) <= SMALL:
        return _describe_value_list(_list_numbers(value))
    first = _list_numbers(value.reshape(-1)[:FIRST])
    return f"{_describe_type(value)}: {', '.join(map(_describe_value, first))}, …"


def _describe_value_list(value: Any) -> str:
    """The numbers of a tensor as nested lists."""
    if isinstance(value, list):
        return f"[{', '.join(map(_describe_value_list, value))}]"
    return _describe_value(value)


def _list_numbers(value: Any) -> Any:
    """The numbers of a tensor or an array as nested lists."""
    return (value.detach().cpu() if _is_tensor(value) else value).tolist()


def _has_numbers(value: Any) -> bool:
    """Tells if a tensor has numbers that can be read: not inside a transform, nor on the meta device."""
    if not _is_tensor(value):
        return True
    functorch = sys.modules["torch"]._C._functorch  # type: ignore[attr-defined]
    return value.device.type != "meta" and not functorch.is_functorch_wrapped_tensor(value)


def _is_array(value: Any) -> bool:
    """Tells if a value is a tensor of torch, or an array or number of NumPy."""
    numpy = sys.modules.get("numpy")
    return _is_tensor(value) or (numpy is not None and isinstance(value, numpy.ndarray | numpy.generic))


def _is_tensor(value: Any) -> bool:
    """Tells if a value is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _join(parts: Sequence[str], length: int) -> str:
    """Joins descriptions of the first parts of a container."""
    return ", ".join([*parts, "…"] if length > len(parts) else parts)


def _shorten(text: str) -> str:
    """Cuts a description at `LIMIT` characters."""
    return text if len(text) <= LIMIT else f"{text[: LIMIT - 1]}…"
