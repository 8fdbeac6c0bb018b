"""A learner's function and ours, called with the same arguments and compared at each call.

The learner's function runs first, with the arguments of the caller, and its result is what the caller gets.
Ours runs on copies. Nothing is compared where a value cannot be read: while torch compiles, inside a
transform of torch.func or a mode of dispatch, and for subclasses of Tensor. There the tests alone judge.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from stages.teach import messages
from stages.teach.calls import Outcome, Record, Report, attempt, describe_call, judge_outcomes, run_as
from stages.teach.guard import (
    find_changed_setting,
    read_functions,
    read_process_state,
    restore_functions,
)
from stages.teach.probes import probe_call
from stages.teach.values import Mismatch, copy_value, find_mismatch, list_tensors, list_texts

SECONDS_OF_PROBES = 0.05
"""A call that takes more processor seconds is not repeated with other numbers, nor for its gradient."""

PROBED_CALLS, PROBED_CALLS_OF_A_VARIANT, MOST_PROBED_CALLS = 12, 3, 60
"""Calls that are repeated with other numbers and for their gradient, at most: the first ones, and the first
ones with each combination of texts among the arguments, which choose a variant; and of all together."""

PROBED_TENSORS, SPOILED_TENSORS = 360, 180
"""Tensors in the arguments of the calls that are repeated, all together. After the first number only the
first call with each combination of texts is repeated; after the second, without arguments of a wrong shape or
dtype. A whole model is called 60 times for one repetition."""

COMPARED_CALLS = 2000
"""Calls that are compared, at most."""


def pair_functions(learner: Callable, ours: Callable, record: Record) -> Callable:
    """Returns the function that calls both and compares; it bears the learner's name and signature.

    Args:
        learner, ours: the two functions, of the same signature.
        record: is given each difference.
    """
    is_compiling = torch.compiler.is_compiling

    def call(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return learner(*args, **kwargs)
        return _call_both(learner, ours, record, args, kwargs)

    functools.update_wrapper(call, learner)
    return call


def _call_both(learner: Callable, ours: Callable, record: Record, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The body of a paired function."""
    stack: list[str] = getattr(record.running, "stack", [])
    if stack and stack[-1] == "ours":
        return ours(*args, **kwargs)
    if stack or record.reports or record.counts["calls"] >= COMPARED_CALLS:
        return run_as(record, "learner", learner, args, kwargs)
    if not _can_compare(args, kwargs):
        return _run_uncompared(record, learner, args, kwargs)
    record.counts["calls"] += 1
    args, kwargs, twins, named_twins = _copy_arguments(args, kwargs)
    start = time.thread_time()
    outcome, changed = _attempt_watched(record, learner, args, kwargs)
    duration = time.thread_time() - start
    originals = copy_value((twins, named_twins)) if not _has_iterator(args, kwargs) else None
    if originals is not None and not record.inputs:
        record.inputs.append(originals)
    expected = attempt(record, "ours", ours, twins, named_twins)
    found = None
    if originals is not None and outcome.error is None and expected.error is None:
        found = _find_change(record.function, originals, (args, kwargs), (twins, named_twins), ours)
    found = found or judge_outcomes(record, outcome, expected, changed)
    if found is None and originals is not None and expected.error is None and duration < SECONDS_OF_PROBES:
        found, originals = _probe(learner, ours, record, originals)
    if found is not None:
        shown = originals if originals is not None else (args, kwargs)
        size = sum(x.numel() for _, x in list_tensors(shown))
        record.reports.append(Report(found, describe_call(ours, *shown), size, outcome.error))
    if outcome.error is not None:
        raise outcome.error
    return (
        _pair_results(outcome.result, expected.result, record) if expected.error is None else outcome.result
    )


def _run_uncompared(record: Record, learner: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Calls the learner's function without ours; a function that it replaces is reported."""
    functions = read_functions()
    try:
        return run_as(record, "learner", learner, args, kwargs)
    finally:
        changed = restore_functions(functions)
        if changed and not record.reports:
            record.reports.append(Report(_describe_change(record, changed), "", 0))


def _attempt_watched(
    record: Record, learner: Callable, args: tuple, kwargs: dict[str, Any]
) -> tuple[Outcome, str]:
    """Calls the learner's function; gives the outcome, and what it changed of the whole process, or ""."""
    functions, state = read_functions(), read_process_state()
    outcome = attempt(record, "learner", learner, args, kwargs)
    replaced = restore_functions(functions)
    return outcome, find_changed_setting(state, read_process_state()) or replaced


def _describe_change(record: Record, changed: str) -> Mismatch:
    """The mismatch that a change of the whole process is."""
    fields = {"function": record.function, "name": changed}
    return Mismatch("purity", messages.CHANGED_STATE, fields, "", "")


def _probe(
    learner: Callable, ours: Callable, record: Record, originals: tuple[tuple, dict[str, Any]]
) -> tuple[Mismatch | None, tuple[tuple, dict[str, Any]]]:
    """Repeats a call with other numbers; the mismatch, if any, and the arguments that show it."""
    spoil = record.counts["probed tensors"] < SPOILED_TENSORS
    if not _choose_probe(record, originals):
        return None, originals
    try_learner = functools.partial(attempt, record, "learner", learner)
    try_ours = functools.partial(attempt, record, "ours", ours)
    functions = read_functions()
    report = probe_call(try_learner, try_ours, *originals, spoil=spoil)
    if changed := restore_functions(functions):
        return _describe_change(record, changed), originals
    if report is None:
        return None, originals
    return _name_place(report[0], ours, record.function), report[1]


def _choose_probe(record: Record, arguments: tuple[tuple, dict[str, Any]]) -> bool:
    """Tells whether a call is repeated with other numbers, and counts it."""
    counts, texts = record.counts, f"probes {list_texts(arguments)}"
    seen = counts.get(texts, 0)
    limit = MOST_PROBED_CALLS if seen < PROBED_CALLS_OF_A_VARIANT else PROBED_CALLS
    if counts["probes"] >= limit or (seen and counts["probed tensors"] >= PROBED_TENSORS):
        return False
    counts[texts] = seen + 1
    counts["probes"] += 1
    counts["probed tensors"] += sum(1 for _ in list_tensors(arguments))
    return True


def _find_change(name: str, originals: tuple, used: tuple, twins: tuple, ours: Callable) -> Mismatch | None:
    """The first argument that the learner's function changed, and ours did not."""
    signature = inspect.signature(ours)
    bound = [signature.bind(*args, **kwargs).arguments for args, kwargs in (originals, used, twins)]
    for argument, before in bound[0].items():
        after, by_ours = (arguments[argument] for arguments in bound[1:])
        if find_mismatch(before, by_ours, argument, loose=True) is not None:
            continue  # what ours changes too, such as a state that it is given to fill
        found = find_mismatch(before, after, argument, loose=True)
        if found is not None:
            fields = {"function": name, "place": found.fields["place"]}
            return Mismatch("purity", messages.CHANGED_ARGUMENT, fields, found.expected, found.got)
    return None


def _name_place(found: Mismatch, function: Callable, name: str) -> Mismatch:
    """Names the function, and writes `[0][1]`, the second positional argument, as the parameter's name."""
    if found.kind == "raises":
        return found._replace(fields={**found.fields, "function": name})
    place = str(found.fields.get("place", ""))
    if match := re.match(r"\[0\]\[(\d+)\]", place):
        names = list(inspect.signature(function).parameters)
        parameter = names[min(int(match[1]), len(names) - 1)]
    elif match := re.match(r"\[1\]\['(\w+)'\]", place):
        parameter = match[1]
    else:
        return found
    return found._replace(fields={**found.fields, "place": parameter + place[match.end() :]})


def _can_compare(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Tells whether values can be read here: no transform, no mode, no subclass of Tensor."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    return all(type(x) in (Tensor, Parameter) for _, x in list_tensors((args, kwargs)))


def _has_iterator(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Tells whether an argument can be read only once."""
    return any(isinstance(value, Iterator) for value in (*args, *kwargs.values()))


def _copy_arguments(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict, tuple, dict]:
    """The arguments for the learner's function, and copies for ours; an iterator is doubled."""
    doubled = [itertools.tee(x) if isinstance(x, Iterator) else (x, x) for x in args]
    named = {name: itertools.tee(x) if isinstance(x, Iterator) else (x, x) for name, x in kwargs.items()}
    twins = (tuple(pair[1] for pair in doubled), {name: pair[1] for name, pair in named.items()})
    copied_args, copied_kwargs = copy_value(twins)
    return (
        tuple(pair[0] for pair in doubled),
        {name: pair[0] for name, pair in named.items()},
        copied_args,
        copied_kwargs,
    )


def _pair_results(result: Any, expected: Any, record: Record) -> Any:
    """The learner's result, in which functions and iterators are paired with ours in turn."""
    if isinstance(result, Iterator) and isinstance(expected, Iterator):
        return _pair_iterators(result, expected, record)
    if isinstance(result, functools.partial) and isinstance(expected, functools.partial):
        same = result.func is expected.func and find_mismatch(
            (expected.args, expected.keywords), (result.args, result.keywords), messages.RESULT
        )
        return result if same is None else pair_functions(result, expected, record)
    if inspect.isfunction(result) and inspect.isfunction(expected):
        return result if result.__code__ is expected.__code__ else pair_functions(result, expected, record)
    if isinstance(result, tuple) and type(result) is type(expected) and _has_function(result):
        parts = [_pair_results(a, b, record) for a, b in zip(result, expected, strict=True)]
        return tuple(parts) if type(result) is tuple else type(result)(*parts)
    return result


def _has_function(result: tuple) -> bool:
    """Tells whether a tuple holds a function, an iterator, or a tuple that does."""
    return any(
        inspect.isfunction(part)
        or isinstance(part, Iterator | functools.partial)
        or (isinstance(part, tuple) and _has_function(part))
        for part in result
    )


def _pair_iterators(result: Iterator, expected: Iterator, record: Record) -> Iterator:
    """Yields the learner's items, each compared with ours."""
    for index in itertools.count():
        outcome, changed = _attempt_watched(record, next, (result, StopIteration), {})
        mine = attempt(record, "ours", next, (expected, StopIteration), {})
        if not record.reports:
            found = judge_outcomes(record, outcome, mine, changed)
            if found is not None:
                record.reports.append(Report(found, f"item {index}", 0, outcome.error))
        if outcome.error is not None:
            raise outcome.error
        if outcome.result is StopIteration:
            return
        yield outcome.result
