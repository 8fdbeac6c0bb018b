"""Bound the time and memory of a template, in units of about ten nanoseconds or bytes.

No program can tell whether a template ends, so every operation that can take long is charged before it
runs: an iteration by its expressions; a filter, test, call, comparison or operator by the size of its
operands, and again by the size of its result. The budget grows with the size of the variables, so long
conversations stay possible.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context

from data_pipes.chat.template_costs import (
    CALL,
    ELEMENT,
    FREE_TESTS,
    NODE,
    SandboxError,
    charge_call,
    charge_result,
    refuse_large,
    refuse_power,
    size,
    total_size,
)

WORK = 1 << 24
"""Units of every run."""

SHARE = 512
"""Additional units for each unit of the size of the variables."""

ROUNDS = 100_000
"""Most iterations of all loops, macros and blocks together."""

COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge, "lt": operator.lt,
    "lteq": operator.le, "in": lambda a, b: a in b, "notin": lambda a, b: a not in b,
}  # fmt: skip
"""Jinja's names of comparisons."""


class Meter(NamedTuple):
    """The metering functions of one run, with one budget.

    Fields:
        spend: (units) -> None; raises when the budget is used up.
        round: (units of an iteration) -> "".
        output: (values) -> the value, or several joined.
        compare: (name, a, b) -> a compared with b.
        value: value -> the value, charged by its size.
        range: Python's range, whose numbers are counted.
    """

    spend: Callable[[int], None]
    round: partial
    output: partial
    compare: partial
    value: partial
    range: Callable[..., range]


def make_meter(given: Any) -> Meter:
    """Makes the meter of one run, with its budget.

    Args:
        given: the variables of the run; the budget grows with their size.

    Returns:
        Meter.

    Example:
        >>> make_meter({"messages": []}).compare("in", "a", "b" * 20_000_000)
        Traceback (most recent call last):
        ...
        data_pipes.chat.template_costs.SandboxError: it takes too long or too much memory for what it is
            given; does it loop
        without end?
    """
    left, rounds, numbers = [WORK], [ROUNDS], [ROUNDS]
    extended: list[int] = []

    def spend(units: float) -> None:
        left[0] -= int(units)
        if left[0] < 0 and not extended:  # measured once, and only where it matters
            extended.append(SHARE * int(total_size(given, 1 << 32)))
            left[0] += extended[0]
        if left[0] < 0:
            raise SandboxError(
                "it takes too long or too much memory for what it is given; does it loop without end?"
            )

    def count(budget: list[int], number: int, name: str) -> None:
        budget[0] -= number
        if budget[0] < 0:
            raise SandboxError(f"it took more than {ROUNDS:,} {name}; does it loop without end?")

    def bounded(*ends: int) -> range:
        count(numbers, len(range(*ends)), "numbers of range")
        return range(*ends)

    def one_round(units: int) -> str:
        count(rounds, 1, "rounds of its loops")
        spend(units)
        return ""

    return Meter(
        spend,
        partial(one_round),
        partial(_charge_output, spend),
        partial(_charge_compare, spend),
        partial(_charge_value, spend),
        bounded,
    )


class Sandbox(ImmutableSandboxedEnvironment):  # type: ignore[misc]
    """Charges calls, filters, tests and operators to the run's budget, the variable named `budget`."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    budget = ""

    def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or a method, and charges it."""
        if type(__function) is partial:  # a function of the meter, which needs no loop variables
            return __function(*args)
        name = getattr(__function, "__name__", "")
        owner = getattr(getattr(__function, "__wrapped__", __function), "__self__", None)
        spend = __context.parent[__self.budget]
        charge_call(spend, name, (owner, *args) if isinstance(owner, str | list | tuple) else args, kwargs)
        return charge_result(spend, super().call(__context, __function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes `left operator right`, and charges it."""
        if type(left) is int and type(right) is int and operator in ("+", "-"):
            return super().call_binop(context, operator, left, right)
        spend = context.parent[self.budget]
        if operator == "**":
            refuse_power(left, right)
        if operator == "*" or (operator == "%" and isinstance(left, str)):
            refuse_large("format" if operator == "%" else "", left, right)
        spend(NODE + size(left) + size(right))
        return charge_result(spend, super().call_binop(context, operator, left, right))


def metered_filter(name: str, function: Callable, budget: str) -> Callable:
    """Returns a filter that is charged to the run's budget."""
    if name == "random":
        return _refuse_random
    return _meter_callable(function, budget, partial(charge_call, name=name))


def metered_test(name: str, function: Callable, budget: str) -> Callable:
    """Returns a test that is charged to the run's budget."""
    if name in FREE_TESTS:
        return function
    return _meter_callable(function, budget, _charge_test)


def _meter_callable(function: Callable, budget: str, charge: Callable) -> Callable:
    """A filter or test whose arguments and result are charged."""
    kind = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @pass_context
    @functools.wraps(function)
    def call(context: Any, *args: Any, **kwargs: Any) -> Any:
        spend = context.parent[budget]
        charge(spend, args=args, kwargs=kwargs)
        if kind == "context":
            args = (context, *args)
        elif kind == "eval_context":
            args = (context.eval_ctx, *args)
        elif kind == "environment":
            args = (context.environment, *args)
        return charge_result(spend, function(*args, **kwargs))

    return call


def _charge_test(spend: Callable, args: Any, kwargs: Any) -> None:
    """Charges a test by the size of its arguments."""
    spend(CALL + sum(size(value) for value in (*args, *kwargs.values())))


def _charge_output(spend: Callable, *values: Any) -> Any:
    """Charges output; returns one value as it is, several joined."""
    for value in values:
        spend(CALL + (len(value) if isinstance(value, str) else ELEMENT * total_size(value)))
    return values[0] if len(values) == 1 else "".join([str(value) for value in values])


def _charge_compare(spend: Callable, name: str, left: Any, right: Any) -> Any:
    """Charges and computes a comparison: by the smaller side, for "in" by the container."""
    if name in ("in", "notin"):
        spend(CALL + (0 if isinstance(right, dict) else total_size(right)))
    else:
        spend(CALL + min(size(left), size(right)))
    return COMPARE[name](left, right)


def _charge_value(spend: Callable, value: Any) -> Any:
    """Charges a value that is copied or looked up, by its size; returns it."""
    units = CALL
    if isinstance(value, str):
        units += len(value)
    elif isinstance(value, list):
        units += ELEMENT * len(value)
    spend(units)
    return value


@pass_context
def _refuse_random(context: Any, *args: Any, **kwargs: Any) -> Any:
    """The filter `random`, refused."""
    raise SandboxError(
        "with `random` the text differs at each rendering, so training is not reproducible; remove `random`"
    )
