"""Trace the examples of exercises in a process of its own.

`trace_exercises` runs here; `run_trace` calls it in a process of its own with a time limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from stages.teach import overlay
from stages.teach.course import find_exercise
from stages.teach.files import ROOT
from stages.teach.tracer import StepTrace, Variable, trace_function

SECONDS = 30.0
"""Time limit of a traced example, the import of torch included."""


class Trace(NamedTuple):
    """Steps of an exercise in its example.

    Fields:
        exercise: its name.
        steps: in the order of their numbers.
        error: why the example could not be run to its end; "" if it was.
    """

    exercise: str
    steps: tuple[StepTrace, ...]
    error: str = ""


def run_trace(names: Sequence[str], seconds: float = SECONDS) -> list[Trace]:
    """Traces exercises in a process of its own.

    Args:
        names: of the exercises.
        seconds: limit of time.

    Returns:
        A trace for each; if the process failed or took too long, without steps and with the reason.
    """
    environment = {key: value for key, value in os.environ.items() if key != overlay.VARIABLE}
    command = [sys.executable, "-m", "stages.teach.trace", *names]
    try:
        done = subprocess.run(
            command, capture_output=True, cwd=ROOT, env=environment, timeout=seconds, encoding="utf8"
        )
    except subprocess.TimeoutExpired:
        return [Trace(name, (), f"no result after {seconds:g} s") for name in names]
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return [Trace(name, (), lines[-1] if lines else f"exit code {done.returncode}") for name in names]
    return read_traces(done.stdout.splitlines()[-1])


def trace_exercises(names: Sequence[str]) -> list[Trace]:
    """Traces exercises in this process; what their examples print is dropped."""
    return [trace_exercise(name) for name in names]


def trace_exercise(name: str) -> Trace:
    """Runs the example of an exercise's docstring and records its steps."""
    exercise = find_exercise(name)
    steps, error = trace_function(import_module(exercise.module), exercise.function)
    return Trace(name, steps, error)


def write_traces(traces: Sequence[Trace]) -> str:
    """Writes traces as JSON."""
    return json.dumps(traces)


def read_traces(text: str) -> list[Trace]:
    """Reads what `write_traces` wrote.

    Example:
        >>> variable = Variable("h", "[1] float32", "[2.0]")
        >>> trace = Trace("dpo_loss", (StepTrace(4, 1, (variable,), ()),))
        >>> read_traces(write_traces([trace])) == [trace]
        True
    """
    return [
        Trace(name, tuple(_read_step(*step) for step in steps), error)
        for name, steps, error in json.loads(text)
    ]


def _read_step(number: int, visits: int, variables: Any, arguments: Any) -> StepTrace:
    """A step from JSON."""
    return StepTrace(
        number,
        visits,
        tuple(Variable(*each) for each in variables),
        tuple(Variable(*each) for each in arguments),
    )


if __name__ == "__main__":
    print(write_traces(trace_exercises(sys.argv[1:])))
