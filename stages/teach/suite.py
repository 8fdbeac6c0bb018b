"""Find the project's tests, and those that reach an exercise.

In a clone they are `tests/` beside the packages; a wheel brings them as `stages/teach/suite_files/tests`. The
table `tests.json` is written by `python benchmarks/exercises.py --table`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TABLE = HERE / "tests.json"
"""Exercise -> the tests that its check runs."""

PROPERTIES = "hypothesis"
"""Library of the tests that draw their examples."""


class ExerciseTests(NamedTuple):
    """Tests that reach an exercise.

    Fields:
        ids: in the order in which they run, as "tests/pure/loss/test_dpo.py::test_name[case]".
        seconds: what they took when the table was written, with imports of their files.
        compiler: our own body makes a call for which torch imports its compiler, and fails without it.
    """

    ids: tuple[str, ...]
    seconds: float
    compiler: bool = False


def find_suite() -> Path | None:
    """Finds the folder that holds `tests/`; None if this installation has none."""
    for folder in (HERE / "suite_files", HERE.parents[1]):
        if (folder / "tests" / "laws").is_dir():
            return folder
    return None


@functools.cache
def read_table() -> Mapping[str, ExerciseTests]:
    """Reads the table of tests."""
    if not TABLE.is_file():
        return {}
    rows = json.loads(TABLE.read_text("utf8"))
    return {
        name: ExerciseTests(tuple(row["tests"]), float(row["seconds"]), row.get("compiler", False))
        for name, row in rows.items()
    }


def list_tests(exercise: str) -> ExerciseTests:
    """Returns the tests of an exercise; none for one that is not in the table."""
    return read_table().get(exercise, ExerciseTests((), 0.0))


def list_libraries(suite: Path, tests: Sequence[str]) -> list[str]:
    """Lists the libraries that only some files of tests need, and that take a moment to import.

    Args:
        suite: the folder that holds `tests/`.
        tests: ids of tests.
    """
    files = dict.fromkeys(test.partition("::")[0] for test in tests)
    return [PROPERTIES] if any(_names(suite / file, PROPERTIES) for file in files) else []


def _names(path: Path, library: str) -> bool:
    """Tells whether a file names a library; False for one that is not there, which pytest refuses."""
    try:
        return library in path.read_text("utf8")
    except OSError:
        return False
