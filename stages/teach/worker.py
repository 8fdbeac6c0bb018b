"""The check of one exercise, in a process of its own.

The process has no more than this to do: serve the learner's function, compared with ours at each call
(`pairs`), run the example of the docstring, then the project's tests, and write the result. The parent
(`grader`) limits its time, memory and output.
"""

from __future__ import annotations

import ast
import importlib
import linecache
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stages.teach import messages, overlay, peers
from stages.teach.calls import Record, is_inside_learner, run_as
from stages.teach.course import Exercise, module_path
from stages.teach.example import run_example
from stages.teach.files import Answer, find_original, read_original, read_parsed
from stages.teach.guard import (
    find_changed_setting,
    install_audit,
    read_functions,
    read_process_state,
    restore_functions,
)
from stages.teach.pairs import pair_functions
from stages.teach.report import Result, fail
from stages.teach.syntax import find_function
from stages.teach.text_check import judge_unreadable
from stages.teach.values import copy_value
from stages.teach.verdict import judge_calls, judge_import, judge_record, judge_time

SPEED_SECONDS = 0.5
"""Seconds for which the two functions are measured."""


class Request(NamedTuple):
    """A check to make.

    Fields:
        folder: the learner's.
        exercise: of the course.
        tests: ids of the tests to run after the example.
        suite: the folder that holds `tests/`; "" runs the example alone.
        scratch: the only folder where files may be written.
    """

    folder: str
    exercise: Exercise
    tests: Sequence[str]
    suite: str
    scratch: str


def check_exercise(request: Request, announce: Callable[[str], None] = lambda stage: None) -> Result:
    """Checks one exercise in this process, which can check no other afterwards.

    Args:
        request: what to check.
        announce: is told what runs next.

    Returns:
        The result, without its seconds and output.
    """
    begun = _begin(request, announce)
    if isinstance(begun, Result):
        return begun
    module, served = begun
    exercise, record = request.exercise, served.record
    announce(messages.EXAMPLE)
    failed: Result | int | None = run_example(module, exercise, record, served.answer)
    if failed is None and request.tests and request.suite:
        failed = _run_tests(request, record, served, announce)
    tests = 0
    if isinstance(failed, int):
        tests, failed = failed, None
    failed = failed or judge_time(record, exercise) or judge_calls(record, exercise)
    calls = record.counts["calls"]
    return (failed or Result(exercise.name, True, tests=tests))._replace(calls=calls)


def measure_speed(request: Request, announce: Callable[[str], None] = lambda stage: None) -> Result:
    """Measures the learner's function beside ours, on the first call of the example, in turns.

    Args:
        request, announce: as in `check_exercise`.

    Returns:
        A result that passed, with the medians "learner" and "ours" in seconds among its fields; without them
        if the example does not call the function; the failure if the example fails.
    """
    begun = _begin(request, announce)
    if isinstance(begun, Result):
        return begun
    module, served = begun
    announce(messages.EXAMPLE)
    exercise, record = request.exercise, served.record
    failed = run_example(module, exercise, record, served.answer)
    if failed is not None or not record.inputs:
        return failed or Result(exercise.name, True)
    announce(messages.MEASUREMENT)
    args, kwargs = record.inputs[0]
    seconds: dict[str, list[float]] = {"learner": [], "ours": []}
    end = time.perf_counter() + SPEED_SECONDS
    while time.perf_counter() < end or len(seconds["ours"]) < 3:
        for name, function in served.functions.items():
            copied_args, copied_kwargs = copy_value((args, kwargs))
            start = time.perf_counter()
            function(*copied_args, **copied_kwargs)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return Result(exercise.name, True, fields=medians)


def _begin(request: Request, announce: Callable[[str], None]) -> tuple[types.ModuleType, Served] | Result:
    """Imports the exercise's module with the learner's function in it, or gives the failure."""
    exercise = request.exercise
    record = Record(exercise.function)
    try:
        answer = read_parsed(Path(request.folder), exercise.module)
    except ValueError as error:  # it was saved again after its text was judged
        return judge_unreadable(exercise, error.args[0])
    served = Served(exercise, answer, record)
    path = module_path(exercise.module)
    hidden = (path, "/__pycache__/".join(path.removesuffix("py").rsplit("/", 1)))
    for each in (find_original(exercise.module), answer.path):
        linecache.getlines(str(each))  # a traceback reads it, while an answer runs
    scratch = Path(request.scratch).resolve()
    install_audit(lambda: is_inside_learner(record), record.refused.append, hidden, answer.path, scratch)
    sys.meta_path.insert(0, peers.Finder())
    overlay.install(request.folder, [exercise.name], execute=partial(execute_part, served))
    announce(messages.IMPORT)
    try:
        module = importlib.import_module(exercise.module)
    except BaseException as error:
        return judge_import(record, exercise, answer, error)
    if served.changed:
        fields = {"path": path, "name": served.changed[0]}
        return fail(exercise.name, "purity", messages.CHANGED_AT_IMPORT, **fields)
    return module, served


@dataclass(frozen=True)
class Served:
    """The learner's function as it is being served.

    Fields:
        exercise: of the course.
        answer: the learner's file.
        record: of the comparison.
        functions: "learner" and "ours" -> the two functions, once the module is imported.
        changed: settings of the process that the top of the learner's file changed.
    """

    exercise: Exercise
    answer: Answer
    record: Record
    functions: dict[str, Callable] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)


def execute_part(served: Served, code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Executes a part of the module; one of the learner's is watched, and its function paired with ours.

    Args:
        served: is given the two functions.
        code, namespace: of the part.
    """
    if code.co_filename != str(served.answer.path):
        exec(code, namespace)
        return
    name = served.exercise.function
    before, state, functions = namespace.get(name), read_process_state(), read_functions()
    try:
        run_as(served.record, "learner", exec, (code, namespace), {})
    finally:
        replaced = restore_functions(functions)
    if changed := find_changed_setting(state, read_process_state()) or replaced:
        served.changed.append(changed)
    function = namespace.get(name)
    if callable(function) and function is not before:
        ours = define_ours(served.exercise, namespace)
        served.functions.update(learner=function, ours=ours)
        namespace[name] = pair_functions(function, ours, served.record)


def define_ours(exercise: Exercise, namespace: dict[str, Any]) -> Callable:
    """Defines our function with the globals of a namespace, without binding its name there."""
    path, text = find_original(exercise.module), read_original(exercise.module)
    tree = ast.parse(text)
    node = find_function(tree, exercise.function)
    assert node is not None, f"{exercise.function} is in {path}"
    own = ast.Module(body=[node], type_ignores=[])
    code = compile(own, str(path), "exec", flags=overlay.future_flags(text), dont_inherit=True)
    local: dict[str, Any] = {}
    exec(code, namespace, local)
    return local[exercise.function]


def _run_tests(
    request: Request, record: Record, served: Served, announce: Callable[[str], None]
) -> Result | int:
    """Runs the project's tests; returns the failure, or the number of tests that passed."""
    from stages.teach.suite_run import run_tests

    outcome = run_tests(
        Path(request.suite), request.tests, lambda: bool(record.reports or record.refused), announce
    )
    if record.reports or record.refused:
        return judge_record(record, request.exercise, served.answer)
    if outcome.failed:
        return fail(request.exercise.name, "tests", messages.TEST, test=outcome.failed, error=outcome.error)
    return outcome.passed
