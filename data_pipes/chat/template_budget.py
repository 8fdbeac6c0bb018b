"""Bound the time and memory of a template, in units of about ten nanoseconds or one byte.

No program can tell whether a template ends, so every operation that can take long is charged to a budget
before it runs: an iteration by its expressions; a filter, test, call, comparison or operator by the size of
its operands, and then by the size of its result. The budget grows with the size of the variables, so that
long conversations can be rendered.
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
"""Budget of a run, in units, before any addition for the size of the variables."""

SHARE = 512
"""Units added to the budget for each unit of the size of the variables."""

ROUNDS = 100_000
"""Largest number of iterations of all loops, macros and blocks together, and of numbers from `range`."""

COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge, "lt": operator.lt,
    "lteq": operator.le, "in": lambda a, b: a in b, "notin": lambda a, b: a not in b,
}  # fmt: skip
"""Jinja's name of a comparison -> its function."""


class Meter(NamedTuple):
    """Functions that charge the operations of one run to its budget.

    Fields:
        spend: (units) -> None; raises when the budget is used up.
        round: (units of an iteration) -> ""; also counts the iteration.
        output: (values) -> the value if there is one, else the values joined to a string.
        compare: (name of the comparison, a, b) -> a compared with b.
        value: (value) -> the value, charged by its size.
        range: Python's range, whose numbers are counted.
    """

    spend: Callable[[int], None]
    round: partial
    output: partial
    compare: partial
    value: partial
    range: Callable[..., range]


def make_meter(variables: Any) -> Meter:
    """Makes the meter of one run, with its budget.

    Args:
        variables: the variables of the run; the budget grows with their size.

    Returns:
        Meter.

    Example:
        >>> make_meter({"messages": []}).compare("in", "a", "b" * 20_000_000)
        Traceback (most recent call last):
        ...
        data_pipes.chat.template_costs.SandboxError: it takes too long or too much memory for the size of its
            variables; does it loop without end?
    """
    budget, rounds, numbers = [WORK], [ROUNDS], [ROUNDS]  # what is left of each
    extension: list[int] = []

    def spend(units: float) -> None:
        budget[0] -= int(units)
        if budget[0] < 0 and not extension:  # the variables are measured once, and only if needed
            extension.append(SHARE * int(total_size(variables, 1 << 32)))
            budget[0] += extension[0]
        if budget[0] < 0:
            raise SandboxError(
                "it takes too long or too much memory for the size of its variables; "
                "does it loop without end?"
            )

    def count(left: list[int], number: int, name: str) -> None:
        left[0] -= number
        if left[0] < 0:
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
    """Charges calls and operators to the run's budget by the function in the variable named `budget`."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))
    budget = ""

    def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
        """Charges a function or a method, and calls it."""
        if type(__function) is partial:  # a function of the meter: not charged, needs no loop variables
            return __function(*args)
        name = getattr(__function, "__name__", "")
        owner = getattr(getattr(__function, "__wrapped__", __function), "__self__", None)
        spend = __context.parent[__self.budget]
        charge_call(spend, name, (owner, *args) if isinstance(owner, str | list | tuple) else args, kwargs)
        return charge_result(spend, super().call(__context, __function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Charges `left operator right`, and computes it."""
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
    """Returns the filter, charged to the run's budget by the function in the variable named `budget`."""
    if name == "random":
        return _refuse_random
    return _meter_callable(function, budget, partial(charge_call, name=name))


def metered_test(name: str, function: Callable, budget: str) -> Callable:
    """Returns the test, charged to the run's budget unless it is free."""
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
    """Charges output; returns one value unchanged, or several joined to a string."""
    for value in values:
        spend(CALL + (len(value) if isinstance(value, str) else ELEMENT * total_size(value)))
    return values[0] if len(values) == 1 else "".join([str(value) for value in values])


def _charge_compare(spend: Callable, name: str, left: Any, right: Any) -> Any:
    """Charges a comparison by the smaller side (for "in", by the container), and computes it."""
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
    """Refuses the filter `random`."""
    raise SandboxError(
        "with `random` the text differs at each rendering, so training is not reproducible; remove `random`"
    )
