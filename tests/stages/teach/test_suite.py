"""`stages.teach.suite`: the table of tests names tests that exist, and that reach their exercise."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stages.teach.course import COURSE
from stages.teach.reach import BUDGET
from stages.teach.suite import find_suite, list_tests, read_table

EXERCISES = [each for chapter in COURSE for each in chapter.exercises]
TABLE = read_table()


def list_functions(file: str) -> Iterator[str]:
    """Yield the ids of the test functions of a file, without their cases."""
    suite = find_suite()
    assert suite is not None
    for node in ast.parse((suite / file).read_text("utf8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{file}::{node.name}"


def test_the_table_is_of_exercises() -> None:
    assert set(TABLE) - {exercise.name for exercise in EXERCISES} == set()
    assert list_tests("absent").ids == ()


def test_every_test_of_the_table_exists() -> None:
    named = {test.partition("[")[0] for tests in TABLE.values() for test in tests.ids}
    files = {test.partition("::")[0] for test in named}
    assert named - {test for file in files for test in list_functions(file)} == set()


def test_the_tests_of_an_exercise_are_quick() -> None:
    assert {name: tests.seconds for name, tests in TABLE.items() if tests.seconds > 2 * BUDGET} == {}


@pytest.mark.parametrize("name", sorted(TABLE)[::53])
def test_the_tests_of_an_exercise_reach_it(name: str) -> None:
    """A few are run; `python benchmarks/exercises.py --table` runs all, and writes the table."""
    ids = TABLE[name].ids[:2]
    command = [sys.executable, "-m", "stages.teach.reach", *ids]
    done = subprocess.run(command, cwd=find_suite(), capture_output=True, text=True, timeout=300)
    rows = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@[")]
    assert rows, done.stderr
    reached = [name in exercises for _, _, exercises in rows]
    assert any(reached)
