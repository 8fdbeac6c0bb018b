"""Copies of variables, and which of them changed afterwards.

torch and NumPy are not imported: a value of theirs can only exist where they are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

PLAIN = (int, float, complex, str, bytes, bytearray, set, frozenset)
"""Types whose equality is that of their contents."""


def copy_variables(variables: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keeps the object of each variable, and a copy of it that a write into the object does not change."""
    return {name: (value, _copy(value)) for name, value in variables.items()}


def list_changed(before: Mapping[str, tuple[Any, Any]], after: Mapping[str, Any]) -> list[str]:
    """Lists the variables that are new, hold another object, or hold an object with another content.

    A variable that is assigned the object that it has already is not changed; small integers, for instance,
    are one object wherever they occur.

    Args:
        before: from `copy_variables`.
        after: the variables later.

    Returns:
        Names in the order of `after`.

    Example:
        >>> rows = [[1]]
        >>> before = copy_variables({"x": 1, "rows": rows})
        >>> rows[0].append(2)
        >>> list_changed(before, {"x": 1, "rows": rows, "y": 0})
        ['rows', 'y']
    """
    return [name for name, value in after.items() if name not in before or _is_changed(*before[name], value)]


def _is_changed(original: Any, copied: Any, now: Any) -> bool:
    """Tells if a variable has another object than before, or its object another content."""
    return now is not original or not _is_same(copied, now)


def _copy(value: Any) -> Any:
    """Copies lists, tuples, dicts, sets, tensors and arrays; any other object is its own copy."""
    if _is_plain_tensor(value):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return [_copy(part) for part in value]
    return value.copy() if _is_array(value) or isinstance(value, set | bytearray) else value


def _is_same(copied: Any, now: Any) -> bool:
    """Tells if a copy has the content of an object, which may have been changed since it was copied."""
    if copied is now:
        return True
    if isinstance(now, dict):
        return _have_keys(copied, now) and all(_is_same(copied[key], now[key]) for key in now)
    if type(now) in (list, tuple):
        return isinstance(copied, list) and len(copied) == len(now) and all(map(_is_same, copied, now))
    if type(copied) is not type(now):
        return False
    if _is_plain_tensor(now):
        same_form = copied.shape == now.shape and copied.dtype == now.dtype
        return same_form and bool(((copied == now) | ((copied != copied) & (now != now))).all())
    if _is_array(now):
        return bool(sys.modules["numpy"].array_equal(copied, now, equal_nan=now.dtype.kind in "fc"))
    return isinstance(now, PLAIN) and bool(copied == now)


def _have_keys(copied: Any, now: dict[Any, Any]) -> bool:
    """Tells if a copy is a dict with these keys in this order."""
    return isinstance(copied, dict) and list(copied) == list(now)


def _is_array(value: Any) -> bool:
    """Tells if a value is an array of NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _is_plain_tensor(value: Any) -> bool:
    """Tells if a value is a tensor outside every transform, whose numbers can be read."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return False
    return value.device.type != "meta" and not torch._C._functorch.is_functorch_wrapped_tensor(value)
