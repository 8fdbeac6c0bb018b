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
from stages.teach.course import Exercise
from stages.teach.example import run_example
from stages.teach.guard import install_audit
from stages.teach.pairs import pair_functions
from stages.teach.report import Result, fail
from stages.teach.syntax import find_function
from stages.teach.values import copy_value
from stages.teach.verdict import judge_import, judge_record, judge_time

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
    module, served = _begin(request, announce)
    if isinstance(module, Result):
        return module
    exercise, record = request.exercise, served.record
    announce(messages.EXAMPLE)
    failed: Result | int | None = run_example(module, exercise, record, served.answer)
    if failed is None and request.tests and request.suite:
        failed = _run_tests(request, record, served, announce)
    tests = 0
    if isinstance(failed, int):
        tests, failed = failed, None
    failed = failed or judge_time(record, exercise)
    calls = record.counts["calls"]
    return (failed or Result(exercise.name, True, tests=tests))._replace(calls=calls)


def measure_speed(request: Request, announce: Callable[[str], None] = lambda stage: None) -> Result:
    """Measures the learner's function beside ours, on the first call of the example, in turns.

    Returns:
        A result that passed, with the medians "learner" and "ours" in seconds among its fields; without them
        if the example does not call the function; the failure if the example fails.
    """
    module, served = _begin(request, announce)
    if isinstance(module, Result):
        return module
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


def _begin(request: Request, announce: Callable[[str], None]) -> tuple[types.ModuleType | Result, Served]:
    """Imports the exercise's module with the learner's function in it, or gives the failure."""
    exercise = request.exercise
    record = Record(exercise.function)
    served = Served(exercise, overlay.answer_path(Path(request.folder), exercise.module), record)
    module_path = exercise.module.replace(".", "/")
    hidden = (f"{module_path}.py", "/__pycache__/".join(module_path.rsplit("/", 1)) + ".")
    linecache.getlines(
        str(overlay.find_source(exercise.module))
    )  # a traceback reads it, while an answer runs
    linecache.getlines(str(served.answer))
    scratch = Path(request.scratch).resolve()
    install_audit(lambda: is_inside_learner(record), record.refused.append, hidden, served.answer, scratch)
    sys.meta_path.insert(0, peers.Finder())
    overlay.install(request.folder, [exercise.name], execute=partial(execute_part, served))
    announce(messages.IMPORT)
    try:
        return importlib.import_module(exercise.module), served
    except BaseException as error:
        return judge_import(record, exercise, served.answer, error), served


@dataclass(frozen=True)
class Served:
    """The learner's function as it is being served.

    Fields:
        exercise: of the course.
        answer: the learner's file.
        record: of the comparison.
        functions: "learner" and "ours" -> the two functions, once the module is imported.
    """

    exercise: Exercise
    answer: Path
    record: Record
    functions: dict[str, Callable] = field(default_factory=dict)


def execute_part(served: Served, code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Executes a part of the module; one of the learner's is watched, and its function paired with ours.

    Args:
        served: is given the two functions.
        code, namespace: of the part.
    """
    if code.co_filename != str(served.answer):
        exec(code, namespace)
        return
    name = served.exercise.function
    before = namespace.get(name)
    run_as(served.record, "learner", exec, (code, namespace), {})
    function = namespace.get(name)
    if isinstance(function, types.FunctionType) and function is not before:
        ours = define_ours(served.exercise, namespace)
        served.functions.update(learner=function, ours=ours)
        namespace[name] = pair_functions(function, ours, served.record)


def define_ours(exercise: Exercise, namespace: dict[str, Any]) -> Callable:
    """Defines our function with the globals of a namespace, without binding its name there."""
    path = overlay.find_source(exercise.module)
    text = overlay.read_source(path)
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
