"""Costs of a template's operations, in units of about ten nanoseconds or bytes.

An operation is charged for the size of its operands before it runs, and for the size of its result after. If
the result can be far larger than the operands (a width, a repetition, a replacement of every letter), its
size is estimated first, and the operation is refused if the estimate is too large.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jinja2

CALL = 128
"""Cost of a filter, a test or a call, without its arguments."""

NODE = 4
"""Cost of an expression."""

LOOKUP = 256
"""Cost of the lookup of an attribute or an item."""

ELEMENT = 16
"""Cost of an element of a list: a pointer, and usually an object."""

MAX_PRODUCT = 1 << 24
"""Largest product of the sizes of operands that multiply, such as a text and a replacement of each letter."""

TOO_LARGE = "it makes a text or a number too large for a template"

GROWING = frozenset((
    "batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace", "rjust",
    "slice", "tojson", "translate", "truncate", "wordwrap", "zfill",
))  # fmt: skip
"""Methods and filters whose result can be far larger than their arguments."""

FREE = frozenset((
    "attr", "count", "d", "default", "first", "get", "items", "keys", "last", "length", "safe", "values",
))  # fmt: skip
"""Methods and filters that take constant time."""

FACTORS: tuple[tuple[int, frozenset[str]], ...] = (
    (8, frozenset(("list", "partition", "rpartition", "rsplit", "split", "splitlines", "tojson", "string"))),
    (32, frozenset(("dictsort", "escape", "forceescape", "groupby", "max", "min", "pprint", "sort",
                    "striptags", "title", "unique", "urlencode", "wordcount", "wordwrap", "xmlattr"))),
    (256, frozenset(("urlize",))),
)  # fmt: skip
"""(cost per unit of argument size, methods and filters); all others have factor 1."""

FREE_TESTS = frozenset((
    "boolean", "callable", "defined", "even", "false", "filter", "float", "integer", "iterable", "mapping",
    "none", "number", "odd", "sameas", "sequence", "string", "test", "true", "undefined",
))  # fmt: skip
"""Tests that take constant time."""

MAX_PIECES = 100_000
"""Largest number of batches or slices that a list may be cut into."""


class SandboxError(jinja2.TemplateError):
    """An error that a template raises itself, or an operation that is refused."""


def total_size(value: Any, limit: float = MAX_PRODUCT) -> float:
    """Returns the size of a value and all values nested in it, in units; above `limit` it stops counting.

    Example:
        >>> total_size(["ab", {"c": 1}]), total_size(5), total_size("abc")
        (52, 1, 3)
    """
    total, pending = 0, [value]
    while pending and total <= limit:
        item = pending.pop()
        kind = type(item)
        if kind is list or kind is tuple:
            total += ELEMENT * len(item)
            pending += item
        elif isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            total += ELEMENT * len(item)
            pending += item.keys()
            pending += item.values()
        else:
            total += 1
    return total


def charge_call(spend: Callable, name: str, args: Any, kwargs: Any) -> None:
    """Charges a filter or a method before it is called.

    Args:
        spend: (units) -> None, which raises when the budget is used up.
        name: name of the filter or the method.
        args: positional arguments; the first is the value that it is applied to.
        kwargs: keyword arguments.

    Raises:
        SandboxError: if the result would be too large, or the budget is used up.
    """
    spend(CALL)
    if name in FREE:
        return
    values = (*args, *kwargs.values())
    if name in GROWING:
        refuse_large(name, *values)
    factor = next((factor for factor, names in FACTORS if name in names), 1)
    spend(factor * sum(size(value) for value in values))
    if name in ("wordwrap", "indent", "tojson", "batch", "slice"):
        _refuse_wide(name, values)
    if name == "sum" and any(isinstance(value, list | tuple) for value in values[1:]):
        raise SandboxError("sum with a list as start takes too long; use a loop")


def charge_result(spend: Callable, value: Any) -> Any:
    """Charges for the size of a result, and returns the result.

    Args:
        spend: as in `charge_call`.
        value: the result.

    Returns:
        The value.
    """
    if isinstance(value, str):
        spend(len(value))
    elif isinstance(value, list | tuple):
        spend(ELEMENT * len(value))
    return value


def refuse_large(operation: str, *values: Any) -> None:
    """Refuses operands that may multiply to a huge result, and a format with a huge width.

    Args:
        operation: name of the operation; for "format" and "format_map" the first operand is the format.
        values: the operands.

    Raises:
        SandboxError: if the result may be larger than MAX_PRODUCT.
    """
    sizes = sorted((1, 1, *(max(size(value), _magnitude(value)) for value in values)), reverse=True)
    if operation.startswith("format"):
        text = values[0] if isinstance(values[0], str) else ""
        widths = sum(map(int, re.findall(r"\d{1,6}", text))) if len(text) < MAX_PRODUCT else MAX_PRODUCT
        nested = sum(map(_magnitude, values)) if re.search(r"%[-+ #0]*\*|:[^{}]*\{", text) else 0
        if re.search(r"\d{6}", text) or widths + nested * text.count("{") > MAX_PRODUCT or nested > 1 << 16:
            raise SandboxError(TOO_LARGE)
    if sizes[0] * sizes[1] > MAX_PRODUCT:
        raise SandboxError(TOO_LARGE)


def refuse_power(base: Any, exponent: Any) -> None:
    """Refuses a power with a huge result.

    Args:
        base, exponent: numbers.

    Raises:
        SandboxError: if the result has more than about 1,500 binary digits.
    """
    if _magnitude(base) > MAX_PRODUCT or _magnitude(exponent) > 64:
        raise SandboxError(TOO_LARGE)


def _refuse_wide(name: str, values: tuple) -> None:
    """Refuses an indent, a number of pieces or a line that makes the result or the work huge."""
    widest = max((_magnitude(value) for value in values[1:]), default=0)
    if name in ("tojson", "indent") and widest > 1 << 8:
        raise SandboxError(TOO_LARGE)
    if name in ("batch", "slice") and widest > MAX_PIECES:
        raise SandboxError(TOO_LARGE)
    if name == "wordwrap" and isinstance(values[0], str):
        width = next((int(_magnitude(value)) for value in values[1:] if _magnitude(value)), 79)
        longest = max(map(len, values[0].split()), default=0)
        if longest * longest > MAX_PRODUCT * max(width, 1):
            raise SandboxError(TOO_LARGE)


def _magnitude(value: Any) -> float:
    """The absolute value of a number, 0 for other values."""
    return abs(value) if isinstance(value, int | float) else 0


def size(value: Any) -> float:
    """Returns the units of an operand."""
    if isinstance(value, str):
        return len(value)
    return total_size(value) if isinstance(value, dict | list | tuple) else 1
