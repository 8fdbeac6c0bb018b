"""Find which tests reach which exercises, by running them with every exercise recorded; pick quick ones.

The tests run in a process that has imported nothing of the course: `python -m stages.teach.reach FILE...`
prints a line, `@` and JSON, for each test.
"""

from __future__ import annotations

import functools
import json
import sys
import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from stages.teach import overlay, peers
from stages.teach.course import COURSE, exercises_of_module
from stages.teach.files import ROOT

BUDGET = 1.5
"""Seconds of tests for one exercise."""

LONGEST = 1.0
"""Seconds of one test function, all its cases together; of a longer one the quickest cases are taken."""

LONGEST_ELSEWHERE = 0.4
"""Seconds of one test function of another module. In a check it takes about three times as long, as each call
of the exercise is compared."""

FILES = 2
"""Files of tests for one exercise, at most: each must be imported."""

CASES = 3
"""Cases that are taken of a test function that takes longer than LONGEST."""

SPREAD, SPREAD_SECONDS = 5, 0.1
"""Cases that are taken, at even distances, of a test function that has more and takes longer than so many
seconds: the check runs each call of a new variant about 60 times."""


class Reached(NamedTuple):
    """A test.

    Fields:
        test: its id.
        seconds: its duration; infinity if it fails, such as without a library of others.
        exercises: names of those that it calls with plain tensors.
    """

    test: str
    seconds: float
    exercises: tuple[str, ...]


def record_reached(files: Sequence[str], report: Callable[[Reached], None]) -> None:
    """Runs files of tests in this process.

    Args:
        files: ids of files, such as "tests/pure/loss/test_dpo.py".
        report: is told each test when it has run.
    """
    from stages.teach.suite_run import run_tests

    current: list[str] = [""]
    reached: dict[str, set[str]] = {}

    def execute(code: types.CodeType, namespace: dict[str, Any]) -> None:
        exec(code, namespace)
        for exercise in exercises_of_module(namespace["__name__"]):
            function = namespace.get(exercise.function)
            if isinstance(function, types.FunctionType) and not hasattr(function, "recorded"):
                note = partial(_note, reached, current, exercise.name)
                namespace[exercise.function] = _record(function, note)

    sys.meta_path.insert(0, peers.Finder())
    names = [exercise.name for chapter in COURSE for exercise in chapter.exercises]
    overlay.install(ROOT, names, execute=execute)

    def finish(test: str, seconds: float) -> None:
        report(Reached(test, seconds, tuple(sorted(reached.get(test, ())))))

    begin = partial(current.__setitem__, 0)
    run_tests(ROOT, files, lambda: False, begin, stop=False, report=finish)


def pick_tests(exercise: str, module: str, rows: Sequence[Reached]) -> tuple[list[str], float]:
    """Picks the tests of an exercise: those of its module's own file first, then others, quick ones first.

    A test of another file, a law too, is left out if it takes longer than LONGEST_ELSEWHERE.

    Args:
        exercise: its name.
        module: dotted name of its module.
        rows: all tests.

    Returns:
        Ids in the order to run, a test function's without its cases where all are taken; and their seconds.
    """
    own = f"test_{module.rpartition('.')[2]}.py"
    groups: dict[str, list[Reached]] = {}
    for row in rows:
        groups.setdefault(row.test.partition("[")[0], []).append(row)
    choices = [choice for group in groups.values() if (choice := _choose(exercise, group)) is not None]
    choices.sort(key=lambda choice: (own not in choice[0][0], "/laws/" in choice[0][0], choice[1]))
    picked: list[str] = []
    seconds, files = 0.0, set[str]()
    for ids, duration in choices:
        file = ids[0].partition("::")[0]
        if own not in file and duration > LONGEST_ELSEWHERE:
            continue
        if seconds + duration <= BUDGET and (file in files or len(files) < FILES):
            picked += ids
            seconds += duration
            files.add(file)
    return sorted(picked, key=lambda test: own not in test), round(seconds, 2)


def _choose(exercise: str, group: Sequence[Reached]) -> tuple[list[str], float] | None:
    """The ids to run of one test function, and their seconds; None if it does not reach the exercise."""
    reaching = sorted((row for row in group if exercise in row.exercises), key=lambda row: row.seconds)
    total = sum(row.seconds for row in group)
    if not reaching:
        return None
    if len(reaching) == len(group):
        if total <= (SPREAD_SECONDS if len(group) > SPREAD else LONGEST):
            return [group[0].test.partition("[")[0]], total
        reaching = list(group[:: -(-len(group) // SPREAD)]) if total <= LONGEST else reaching[:CASES]
    chosen = reaching[:12]
    return [row.test for row in chosen], sum(row.seconds for row in chosen)


def _record(function: Callable, note: Callable[[], None]) -> Callable:
    """A function that notes each call outside compilation."""
    import torch

    is_compiling = torch.compiler.is_compiling

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_compiling():
            note()
        return function(*args, **kwargs)

    call.recorded = True  # type: ignore[attr-defined]
    return call


def _note(reached: dict[str, set[str]], current: list[str], exercise: str) -> None:
    """Notes that the test that runs now calls an exercise."""
    reached.setdefault(current[0], set()).add(exercise)


if __name__ == "__main__":
    record_reached(sys.argv[1:], lambda row: print("\n@" + json.dumps(row), flush=True))
