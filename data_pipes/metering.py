"""A bound on the work and the memory of a stranger's template, counted in units of about ten nanoseconds or bytes.

Nobody can tell from a program whether it will end, so every operation that can take long is charged before it is done:
a round of a loop by what is in it, a filter, a test, a call, a comparison or a sum by the size of what it works on, and
again by the size of what it makes. What a template may spend grows with what it is given, so that a long conversation
costs an honest template nothing.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context

WORK = 1 << 24
"""Units that a template may spend whatever it is given."""

SHARE = 512
"""Units that it may spend for each unit of what it is given."""

CALL = 128
"""Units of a filter, a test or a call, whatever it is given."""

NODE = 4
"""Units of an expression."""

LOOKUP = 256
"""Units of an attribute or an item that is looked up."""

ELEMENT = 16
"""Units of an element of a list: a pointer, and mostly an object that it points to."""

ROUNDS = 100_000
"""Rounds of all loops, macros and blocks together."""

PRODUCT = 1 << 24
"""Largest product of the sizes of two things that may be multiplied, as a text and what is put in for each letter."""

TOO_LARGE = "it makes a text or a number too large for a template"

GROWING = frozenset((
    "batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace", "rjust", "slice",
    "tojson", "translate", "truncate", "wordwrap", "zfill",
))  # fmt: skip
"""Methods and filters that can write far more than they read."""

FREE = frozenset((
    "attr", "count", "d", "default", "first", "get", "items", "keys", "last", "length", "safe", "values",
))  # fmt: skip
"""Methods and filters that take as long whatever they are given."""

FACTORS: tuple[tuple[int, frozenset[str]], ...] = (
    (8, frozenset(("list", "partition", "rpartition", "rsplit", "split", "splitlines", "tojson", "string"))),
    (32, frozenset(("dictsort", "escape", "forceescape", "groupby", "max", "min", "pprint", "sort", "striptags",
                    "title", "unique", "urlencode", "wordcount", "wordwrap", "xmlattr"))),
    (256, frozenset(("urlize",))),
)  # fmt: skip
"""(how many units each unit of an argument costs, of which methods and filters); others cost one."""

FREE_TESTS = frozenset((
    "boolean", "callable", "defined", "even", "false", "filter", "float", "integer", "iterable", "mapping", "none",
    "number", "odd", "sameas", "sequence", "string", "test", "true", "undefined",
))  # fmt: skip
"""Tests that take as long whatever they are given."""

COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge, "lt": operator.lt,
    "lteq": operator.le, "in": lambda a, b: a in b, "notin": lambda a, b: a not in b,
}  # fmt: skip
"""Jinja's names of comparisons."""


class SandboxError(jinja2.TemplateError):
    """What a template asked to raise, or may not do."""


class Meter(NamedTuple):
    """What one run may call; all of it shares one purse.

    Fields:
        spend: (units) -> None; raises when there are none left.
        round: (units of a round) -> "".
        shown: (values) -> what is written of them.
        compare: (name, a, b) -> a compared with b.
        paid: value -> the value, charged by its size.
        range: Python's range, whose numbers are counted.
    """

    spend: Callable[[int], None]
    round: partial
    shown: partial
    compare: partial
    paid: partial
    range: Callable[..., range]


def meter(given: Any) -> Meter:
    """Makes the purse of one run.

    Args:
        given: what the template is given; the larger, the more it may spend.

    Returns:
        Meter.

    Example:
        >>> meter({"messages": []}).compare("in", "a", "b" * 20_000_000)
        Traceback (most recent call last):
        ...
        data_pipes.metering.SandboxError: it takes too long or too much memory for what it is given; does it loop for
        ever?
    """
    left, rounds, numbers = [WORK], [ROUNDS], [ROUNDS]
    extended: list[int] = []

    def spend(units: float) -> None:
        left[0] -= int(units)
        if left[0] < 0 and not extended:  # measured once, and only where it matters
            extended.append(SHARE * int(deep(given, 1 << 32)))
            left[0] += extended[0]
        if left[0] < 0:
            raise SandboxError("it takes too long or too much memory for what it is given; does it loop for ever?")

    def count(purse: list[int], many: int, what: str) -> None:
        purse[0] -= many
        if purse[0] < 0:
            raise SandboxError(f"it took more than {ROUNDS:,} {what}; does it loop for ever?")

    def bounded(*ends: int) -> range:
        count(numbers, len(range(*ends)), "numbers of range")
        return range(*ends)

    def one_round(units: int) -> str:
        count(rounds, 1, "rounds of its loops")
        spend(units)
        return ""

    return Meter(
        spend, partial(one_round), partial(_shown, spend), partial(_compared, spend), partial(_paid, spend), bounded
    )


def deep(value: Any, limit: float = PRODUCT) -> float:
    """Returns the units of a value and all that is in it, or a number above `limit` if it has more.

    Example:
        >>> deep(["ab", {"c": 1}]), deep(5), deep("abc")
        (52, 1, 3)
    """
    total, waiting = 0, [value]
    while waiting and total <= limit:
        found = waiting.pop()
        kind = type(found)
        if kind is list or kind is tuple:
            total += ELEMENT * len(found)
            waiting += found
        elif isinstance(found, str):
            total += len(found)
        elif isinstance(found, dict):
            total += ELEMENT * len(found)
            waiting += found.keys()
            waiting += found.values()
        else:
            total += 1
    return total


class Sandbox(ImmutableSandboxedEnvironment):  # type: ignore[misc]
    """Charges calls, filters, tests and operators to the purse of the run, whose name is `purse`."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    purse = ""

    def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or a method, within bounds."""
        if type(__function) is partial:  # the meter's own, which needs no variables of loops
            return __function(*args)
        name = getattr(__function, "__name__", "")
        owner = getattr(getattr(__function, "__wrapped__", __function), "__self__", None)
        spend = __context.parent[__self.purse]
        _charge(spend, name, (owner, *args) if isinstance(owner, str | list | tuple) else args, kwargs)
        return _made(spend, super().call(__context, __function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes `left operator right`, within bounds."""
        if type(left) is int and type(right) is int and operator in ("+", "-"):
            return super().call_binop(context, operator, left, right)
        spend = context.parent[self.purse]
        if operator == "**" and (_number(left) > 1 << 24 or _number(right) > 64):
            raise SandboxError(TOO_LARGE)
        if operator == "*" or (operator == "%" and isinstance(left, str)):
            _refuse_large("format" if operator == "%" else "", left, right)
        spend(NODE + _size(left) + _size(right))
        return _made(spend, super().call_binop(context, operator, left, right))


def metered_filter(name: str, function: Callable, purse: str) -> Callable:
    """Returns a filter that is charged to the purse of the run."""
    if name == "random":
        return _no_chance
    return _metered(function, purse, partial(_charge, name=name))


def metered_test(name: str, function: Callable, purse: str) -> Callable:
    """Returns a test that is charged to the purse of the run."""
    if name in FREE_TESTS:
        return function
    return _metered(function, purse, _charge_comparison)


def _metered(function: Callable, purse: str, charge: Callable) -> Callable:
    """A filter or test whose arguments and result are charged."""
    kind = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @pass_context
    @functools.wraps(function)
    def call(context: Any, *args: Any, **kwargs: Any) -> Any:
        spend = context.parent[purse]
        charge(spend, args=args, kwargs=kwargs)
        first = {"context": (context,), "eval_context": (context.eval_ctx,), "environment": (context.environment,)}
        return _made(spend, function(*first.get(kind, ()), *args, **kwargs))

    return call


def _charge(spend: Callable, name: str, args: Any, kwargs: Any) -> None:
    """Charges a filter or a method before it is called."""
    spend(CALL)
    if name in FREE:
        return
    values = (*args, *kwargs.values())
    if name in GROWING:
        _refuse_large(name, *values)
    factor = next((factor for factor, names in FACTORS if name in names), 1)
    spend(factor * sum(_size(value) for value in values))
    if name in ("wordwrap", "indent", "tojson", "batch", "slice"):
        _refuse_wide(name, values)
    if name == "sum" and (kwargs.get("start") or (args[2:] and args[2])):
        raise SandboxError("sum with a start takes too long where it joins lists; use a loop")


def _charge_comparison(spend: Callable, args: Any, kwargs: Any) -> None:
    """Charges a test."""
    spend(CALL + sum(_size(value) for value in (*args, *kwargs.values())))


def _made(spend: Callable, value: Any) -> Any:
    """A result, charged by its size."""
    if isinstance(value, str):
        spend(len(value))
    elif isinstance(value, list | tuple):
        spend(ELEMENT * len(value))
    return value


def _shown(spend: Callable, *values: Any) -> Any:
    """What is written: one value as it is, several joined."""
    for value in values:
        spend(CALL + (len(value) if isinstance(value, str) else ELEMENT * deep(value)))
    return values[0] if len(values) == 1 else "".join([str(value) for value in values])


def _compared(spend: Callable, name: str, left: Any, right: Any) -> Any:
    """A comparison, charged by the smaller side, or by what something is looked for in."""
    if name in ("in", "notin"):
        spend(CALL + (0 if isinstance(right, dict) else deep(right)))
    else:
        spend(CALL + min(_size(left), _size(right)))
    return COMPARE[name](left, right)


def _paid(spend: Callable, value: Any) -> Any:
    """A value that is copied or looked up, charged by its size."""
    spend(CALL + (len(value) if isinstance(value, str) else ELEMENT * len(value) if isinstance(value, list) else 0))
    return value


def _refuse_large(operation: str, *values: Any) -> None:
    """Refuses values of which one may be repeated as often as another is long, and a format with a huge width."""
    sizes = sorted((1, 1, *(max(_size(value), _number(value)) for value in values)), reverse=True)
    if operation.startswith("format"):
        text = values[0] if isinstance(values[0], str) else ""
        widths = sum(map(int, re.findall(r"\d{1,6}", text))) if len(text) < PRODUCT else PRODUCT
        nested = sum(map(_number, values)) if re.search(r"%[-+ #0]*\*|:[^{}]*\{", text) else 0
        if re.search(r"\d{6}", text) or widths + nested * text.count("{") > PRODUCT or nested > 1 << 16:
            raise SandboxError(TOO_LARGE)
    if sizes[0] * sizes[1] > PRODUCT:
        raise SandboxError(TOO_LARGE)


def _refuse_wide(name: str, values: tuple) -> None:
    """Refuses an indent, a number of pieces or a line that multiplies what is written or done."""
    widest = max((_number(value) for value in values[1:]), default=0)
    if name in ("tojson", "indent") and widest > 1 << 8:
        raise SandboxError(TOO_LARGE)
    if name in ("batch", "slice") and widest > ROUNDS:
        raise SandboxError(TOO_LARGE)
    if name == "wordwrap" and isinstance(values[0], str):
        width = next((int(_number(value)) for value in values[1:] if _number(value)), 79)
        longest = max(map(len, values[0].split()), default=0)
        if longest * longest > PRODUCT * max(width, 1):
            raise SandboxError(TOO_LARGE)


def _number(value: Any) -> float:
    """The size of a number, 0 of anything else."""
    return abs(value) if isinstance(value, int | float) else 0


def _size(value: Any) -> float:
    """Units of a value that an operation works on."""
    if isinstance(value, str):
        return len(value)
    return deep(value) if isinstance(value, dict | list | tuple) else 1


@pass_context
def _no_chance(context: Any, *args: Any, **kwargs: Any) -> Any:
    """The filter `random`."""
    raise SandboxError("a text that is another each time cannot be trained on; take `random` out of the template")
