"""Calls of a learner's function and of ours: who runs now, what a call gave, how two outcomes differ."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stages.teach import messages
from stages.teach.unsolved import Unsolved
from stages.teach.values import Mismatch, describe_value, find_mismatch


class Report(NamedTuple):
    """A call that shows a mismatch."""

    mismatch: Mismatch
    input: str
    size: int  # numbers in the tensors of the input
    error: BaseException | None = None


@dataclass(frozen=True)
class Record:
    """The calls of a function, and their differences; it is filled while tests call the function.

    Fields:
        function: the name of the exercise's function.
        reports: calls that differ from ours.
        seconds: "learner" and "ours" -> seconds spent in each.
        counts: "calls", "probes", "probed tensors" -> how many; "probes" with texts: those with them.
        running: the stack of what runs now, "learner" or "ours", in each thread.
        refused: actions that the audit refused.
        inputs: arguments of the first call that was compared.
    """

    function: str
    reports: list[Report] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"learner": 0.0, "ours": 0.0})
    counts: dict[str, int] = field(default_factory=lambda: {"calls": 0, "probes": 0, "probed tensors": 0})
    running: threading.local = field(default_factory=threading.local)
    refused: list[str] = field(default_factory=list)
    inputs: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)


def is_inside_learner(record: Record) -> bool:
    """Tells whether the learner's code is running in this thread."""
    stack: list[str] = getattr(record.running, "stack", [])
    return len(stack) > 0 and stack[-1] == "learner"


def run_as(record: Record, who: str, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Calls a function, and notes while it runs whose it is.

    The learner's prints go to the process's own output, not into that of an example.

    Args:
        record: of the comparison.
        who: "learner" or "ours".
        function, args, kwargs: the call.

    Returns:
        Its result.
    """
    if not hasattr(record.running, "stack"):
        record.running.stack = []
    stack = record.running.stack
    stack.append(who)
    output = sys.stdout
    if who == "learner":
        sys.stdout = sys.__stdout__
    start = time.perf_counter()
    try:
        return function(*args, **kwargs)
    finally:
        stack.pop()
        sys.stdout = output
        record.seconds[who] += time.perf_counter() - start


class Outcome(NamedTuple):
    """The result of a call, or its error."""

    result: Any
    error: BaseException | None


def attempt(
    record: Record, who: str, function: Callable, args: tuple = (), kwargs: dict[str, Any] | None = None
) -> Outcome:
    """Calls a function and catches its error, an exit too.

    Args:
        record, who, function, args, kwargs: as in `run_as`.
    """
    try:
        return Outcome(run_as(record, who, function, args, kwargs or {}), None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Outcome(None, error)


def judge_outcomes(record: Record, outcome: Outcome, expected: Outcome, changed: str) -> Mismatch | None:
    """Finds the first difference of two outcomes.

    Args:
        record: of the comparison; an action that was refused comes first.
        outcome, expected: of the learner's function and of ours.
        changed: name of a setting of the process that the learner's function changed; "" for none.

    Returns:
        The difference, or None.
    """
    name = record.function
    if record.refused:
        fields = {"function": name, "action": record.refused[0]}
        return Mismatch("forbidden", messages.REFUSED_EVENT, fields, "", "")
    if changed:
        return Mismatch("purity", messages.CHANGED_STATE, {"function": name, "name": changed}, "", "")
    mine, theirs = expected.error, outcome.error
    if theirs is None and mine is not None:
        return Mismatch(
            "raises",
            messages.RAISES_NOT,
            {"function": name},
            describe_error(mine),
            describe_value(outcome.result),
        )
    if theirs is not None:
        return _judge_error(name, theirs, mine, expected.result)
    return find_mismatch(expected.result, outcome.result, messages.RESULT)


def _judge_error(
    name: str, theirs: BaseException, mine: BaseException | None, result: Any
) -> Mismatch | None:
    """The difference that an error of the learner's function is, if it is one."""
    if isinstance(theirs, SystemExit):
        return Mismatch("exit", messages.EXIT_CALL, {"function": name, "code": theirs.code}, "", "")
    got = describe_error(theirs)
    if isinstance(theirs, MemoryError) or "can't allocate memory" in got:
        return Mismatch("memory", messages.MEMORY, {"limit": 0}, "", "")
    if isinstance(theirs, Unsolved):
        return Mismatch("unsolved", messages.UNSOLVED_CALL, {"function": name}, "", "")
    if mine is None:
        return Mismatch(
            "raises", messages.RAISES, {"function": name, "error": got}, describe_value(result), ""
        )
    if isinstance(theirs, type(mine)) or isinstance(mine, type(theirs)):
        return None
    return Mismatch("raises", messages.RAISES_OTHER, {"function": name}, describe_error(mine), got)


def describe_call(function: Callable, args: tuple, kwargs: dict[str, Any]) -> str:
    """Describes the arguments of a call with their names, one on each line.

    Example:
        >>> print(describe_call(lambda x, *, beta: x, (torch.ones(2),), {"beta": 0.1}))
        x = tensor([1., 1.])
        beta = 0.1
    """
    try:
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        arguments = {"args": args, "kwargs": kwargs}
    return "\n".join(f"{name} = {describe_value(value)}" for name, value in arguments.items())


def describe_error(error: BaseException) -> str:
    """Describes an error with its type, in one line.

    Example:
        >>> describe_error(KeyError("a")), describe_error(AssertionError())
        ("KeyError: 'a'", 'AssertionError')
    """
    try:
        text = str(error)
    except Exception:  # a class of the learner's
        text = ""
    return " ".join(f"{type(error).__name__}: {text}".split())[:300].removesuffix(":")
