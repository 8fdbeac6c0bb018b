"""Results of a check from what the worker has seen."""

from __future__ import annotations

import ast
import traceback
from typing import Any

from stages.teach import messages
from stages.teach.calls import Record, describe_error
from stages.teach.course import Exercise, module_path
from stages.teach.files import Answer
from stages.teach.report import Result, fail
from stages.teach.steps import find_step
from stages.teach.syntax import find_function

SLOWER, SLOW_SECONDS = 20, 2.0
"""An answer is too slow if it takes so many times as long as ours, and so many seconds in all."""


def judge_import(record: Record, exercise: Exercise, answer: Answer, error: BaseException) -> Result:
    """Makes the result of a module that cannot be imported with the learner's part in it.

    Args:
        record: of the comparison.
        exercise: of the course.
        answer: the learner's file.
        error: of the import.
    """
    if record.refused:
        return fail(
            exercise.name,
            "forbidden",
            messages.REFUSED_EVENT,
            function=exercise.function,
            action=record.refused[0],
        )
    if isinstance(error, SystemExit):
        return fail(
            exercise.name, "exit", messages.EXIT_CALL, function=exercise.function, code=str(error.code)
        )
    if isinstance(error, MemoryError):
        return fail(exercise.name, "memory", messages.MEMORY, limit=0)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(answer.path)
    ]
    if not frames:
        return fail(exercise.name, "error", messages.ERROR, error=describe_error(error))
    return fail(
        exercise.name,
        "raises",
        messages.RAISES_AT_IMPORT,
        path=module_path(exercise.module),
        error=describe_error(error),
        line=frames[-1].lineno,
        code=frames[-1].line or "",
    )


def judge_record(record: Record, exercise: Exercise, answer: Answer) -> Result:
    """Makes the result of the smallest call that differs from ours.

    Args:
        record: with at least one report or refused action.
        exercise: of the course.
        answer: the learner's file.
    """
    if record.refused:
        fields: dict[str, Any] = {"function": exercise.function, "action": record.refused[0]}
        return Result(exercise.name, False, "forbidden", messages.REFUSED_EVENT, fields)
    report = min(record.reports, key=lambda each: each.size)
    found = report.mismatch
    if found.kind == "unsolved":
        return describe_unsolved(exercise, answer)
    result = Result(
        exercise.name,
        False,
        found.kind,
        found.message,
        {name: _plain(value) for name, value in found.fields.items()},
        input=report.input,
        expected=found.expected,
        got=found.got,
    )
    frames = traceback.extract_tb(report.error.__traceback__) if report.error is not None else []
    own = [frame for frame in frames if frame.filename == str(answer.path)]
    if found.kind == "raises" and own and found.message == messages.RAISES:
        line = own[-1].lineno or 0
        in_function = [find_step(answer.text, exercise.function, frame.lineno or 0) for frame in own]
        fields = {**result.fields, "line": line, "code": own[-1].line or ""}
        step = max(in_function, default=0)
        return result._replace(message=messages.RAISES_AT, fields=fields, step=step)
    return result


def describe_unsolved(exercise: Exercise, answer: Answer) -> Result:
    """Makes the result of an exercise that still raises Unsolved."""
    node = find_function(ast.parse(answer.text), exercise.function)
    line = node.body[-1].lineno if node is not None else 0
    return fail(
        exercise.name,
        "unsolved",
        messages.UNSOLVED,
        function=exercise.function,
        path=module_path(exercise.module),
        line=line,
    )


def judge_time(record: Record, exercise: Exercise) -> Result | None:
    """Makes the failure of a function that takes much longer than ours; None if it does not."""
    learner, ours = record.seconds["learner"], record.seconds["ours"]
    if learner < SLOW_SECONDS or learner < SLOWER * ours:
        return None
    fields: dict[str, Any] = {
        "function": exercise.function,
        "seconds": f"{learner:.1f}",
        "reference": f"{ours:.2f}",
    }
    return fail(exercise.name, "slow", messages.SLOWER, **fields)


def judge_calls(record: Record, exercise: Exercise) -> Result | None:
    """Makes the failure of a check that compared no call; None if it compared one."""
    if record.counts["calls"]:
        return None
    return fail(exercise.name, "error", messages.ERROR, error=f"no call of {exercise.function} was compared")


def _plain(value: Any) -> Any:
    """A field of a message as JSON takes it."""
    return value if isinstance(value, int | float | str) else str(value)
