"""Records what a function's numbered steps assign, while the example of its docstring runs."""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FrameType, ModuleType
from typing import Any, NamedTuple

from stages.teach.describe import count_numbers, describe_numbers, describe_shape
from stages.teach.marks import Mark, list_marks, list_numbers
from stages.teach.snapshot import copy_variables, list_changed
from stages.teach.syntax import find_function, parse_source

MOST_VISITS = 100
"""Visits of a step in one call whose variables are compared, at most; further ones are counted."""


class Variable(NamedTuple):
    """A variable as text.

    Fields:
        name: "" for what the function returns.
        shape: by `describe_shape`.
        numbers: by `describe_numbers`.
    """

    name: str
    shape: str
    numbers: str


class StepTrace(NamedTuple):
    """Effect of a step in the example.

    Fields:
        number: of the step.
        visits: how often it was executed in the call that is shown; 0 if the example never reaches it.
        variables: those that it assigned or changed, the first time that it changed any, with their values
            after it.
        arguments: of that call, without those that are the defaults.
    """

    number: int
    visits: int
    variables: tuple[Variable, ...]
    arguments: tuple[Variable, ...]


class Visit(NamedTuple):
    """One execution of the lines of a mark."""

    variables: tuple[Variable, ...]


class Call(NamedTuple):
    """One call of the function: its arguments, their size, and the visits by index of the mark."""

    arguments: tuple[Variable, ...]
    size: int
    visits: dict[int, list[Visit]]
    counts: dict[int, int]
    ended: list[str]


class Target(NamedTuple):
    """The function to trace: index of the mark of each line, and the code objects in which marks are."""

    lines: dict[int, int]
    outer: CodeType
    inner: tuple[CodeType, ...]
    function: Callable[..., Any]


def trace_function(module: ModuleType, function: str) -> tuple[tuple[StepTrace, ...], str]:
    """Runs the example of a function's docstring and records the steps that are marked in its body.

    Of several calls of the function a step is shown from one that returns, and executes the most steps; of
    these from the smallest; of these from the last. A step that this call does not execute is shown from the
    next best.

    Args:
        module: where the function is.
        function: its name.

    Returns:
        (steps in the order of their numbers, error): `error` says why the example could not be run to its
        end; "" if it was.
    """
    text = inspect.getsource(module)
    marks = list_marks(text, function)
    target = find_target(module, function, text, marks)
    calls: list[Call] = []
    error = _run_example(target.function.__doc__ or "", module, make_tracer(target, calls))
    return tuple(_choose(number, marks, calls) for number in list_numbers(marks)), error


def find_target(module: ModuleType, function: str, text: str, marks: Sequence[Mark]) -> Target:
    """Finds the code objects of a function in which steps are marked.

    Args:
        module: where it is defined.
        function: its name.
        text: the module's source.
        marks: of the function.
    """
    unwrapped = inspect.unwrap(getattr(module, function))
    lines = {line: index for index, mark in enumerate(marks) for line in mark.lines}
    node = find_function(parse_source(text), function)
    assert node is not None, "a rule holds the course to the source"
    nested = [each for each in ast.walk(node) if isinstance(each, ast.FunctionDef) and each is not node]
    starts = {mark.lines[0] for mark in marks if mark.lines}
    names = {each.name for each in nested if starts & set(range(each.lineno, (each.end_lineno or 0) + 1))}
    outer = unwrapped.__code__
    inner = tuple(code for code in _list_codes(outer) if code.co_name in names)
    return Target(lines, outer, inner, unwrapped)


def make_tracer(target: Target, calls: list[Call]) -> Callable[[FrameType, str, Any], Any]:
    """Makes the function for `sys.settrace` that records calls of the target.

    Args:
        target: the function.
        calls: where its calls are appended.
    """
    running: list[Call] = []

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code is target.outer:
            call = _begin_call(frame, target.function)
            calls.append(call)
            running.append(call)
            return _make_local(target, call, running)
        if frame.f_code in target.inner and calls:
            return _make_local(target, (running or calls)[-1], None)
        return None

    return trace


def _make_local(
    target: Target, call: Call, running: list[Call] | None
) -> Callable[[FrameType, str, Any], Any]:
    """Makes the function that Python calls at each line of one frame.

    `running` is the list from which the call is taken when the frame returns; None for a nested function.
    """
    current, raised = -1, False
    before: dict[str, tuple[Any, Any]] = {}

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal current, before, raised
        index = target.lines.get(frame.f_lineno, -1)
        raised = event == "exception" or (raised and event == "return")
        if event == "return":
            _end_visit(call, current, before, frame.f_locals, () if raised else (arg,))
            if running:
                running.remove(call)
                call.ended.append("raised" if raised else "returned")
        elif event == "line" and index != current:
            _end_visit(call, current, before, frame.f_locals, ())
            current = index
            is_compared = index >= 0 and call.counts.get(index, 0) < MOST_VISITS
            before = copy_variables(frame.f_locals if is_compared else {})
        return local

    return local


def _begin_call(frame: FrameType, function: Callable[..., Any]) -> Call:
    """The record of a call, with its arguments."""
    defaults = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    names = [name for name in defaults if frame.f_locals[name] is not defaults[name]]
    arguments = tuple(_make_variable(name, frame.f_locals[name]) for name in names)
    size = sum(count_numbers(frame.f_locals[name]) for name in names)
    return Call(arguments, size, {}, {}, [])


def _end_visit(
    call: Call,
    index: int,
    before: dict[str, tuple[Any, Any]],
    after: dict[str, Any],
    returned: tuple[Any, ...],
) -> None:
    """Records a visit of a mark: the variables that are not as before."""
    if index < 0:
        return
    count = call.counts[index] = call.counts.get(index, 0) + 1
    if count > MOST_VISITS:
        return
    changed = list_changed(before, after)
    variables = [_make_variable(name, after[name]) for name in changed]
    variables += [_make_variable("", value) for value in returned if value is not None]
    call.visits.setdefault(index, []).append(Visit(tuple(variables)))


def _choose(number: int, marks: Sequence[Mark], calls: Sequence[Call]) -> StepTrace:
    """The step in the call that shows it best."""
    indices = [index for index, mark in enumerate(marks) if number in mark.numbers]
    best: tuple[tuple[Any, ...], StepTrace] | None = None
    for order, call in enumerate(calls):
        visits = [visit for index in indices for visit in call.visits.get(index, ())]
        if visits:
            shown = next((visit for visit in visits if visit.variables), visits[0])
            rank = ("returned" in call.ended, len(call.counts), -call.size, order)
            count = sum(call.counts[index] for index in indices if index in call.counts)
            if best is None or rank > best[0]:
                best = rank, StepTrace(number, count, shown.variables, call.arguments)
    return best[1] if best else StepTrace(number, 0, (), ())


def _run_example(docstring: str, module: ModuleType, tracer: Callable[[FrameType, str, Any], Any]) -> str:
    """Runs the examples of a docstring in order under a tracer; returns the error that ended them, or ""."""
    names = dict(vars(module))
    for example in doctest.DocTestParser().get_examples(docstring):
        code = compile(example.source, "<example>", "single", dont_inherit=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()), _traced(tracer):
                exec(code, names)
        except Exception as error:
            if example.exc_msg is None:
                return f"{type(error).__name__}: {error}"
    return ""


@contextlib.contextmanager
def _traced(tracer: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    """Sets a tracer while the block runs."""
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(before)


def _make_variable(name: str, value: Any) -> Variable:
    """A variable as text."""
    return Variable(name, describe_shape(value), describe_numbers(value))


def _list_codes(code: CodeType) -> Iterator[CodeType]:
    """Yields the code objects of nested functions."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _list_codes(constant)
