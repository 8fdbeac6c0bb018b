"""`stages.teach.classroom`: each student apart from the others; JUnit and CSV that other programs read."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from stages.teach.classroom import COLUMNS, find_students, grade, write_csv, write_junit
from stages.teach.course import find_exercise
from stages.teach.report import Result, fail
from tests.stages.teach.edition import NORM, OURS, write_answer

UNPRINTABLE = "wrong \x00 <b> ]]> & \ud800 中"
RESULTS = {
    "=alice": [
        Result(NORM, True, seconds=1.5),
        fail("dpo_loss", "value", "{place} is wrong", place=UNPRINTABLE),
    ],
    "bob": [fail(NORM, "unsolved", "not yet"), fail("dpo_loss", "slow", "no, it\nis slow")],
}


def test_every_student_has_results_of_their_own(tmp_path: Path) -> None:
    exercise = find_exercise(NORM)
    write_answer(tmp_path / "alice", OURS)
    write_answer(tmp_path / "bob", "raise SystemExit")
    write_answer(tmp_path / "carol", "while True: print('x' * 10_000)")
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    students = find_students(tmp_path)
    found = {folder.name: row for folder, row in grade(students, [exercise], processes=2)}
    assert list(found) == ["alice", "bob", "carol"]
    assert [row[0].kind for row in found.values()] == ["", "exit", "purity"]


def test_a_folder_without_students_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one folder for each student"):
        find_students(tmp_path)
    with pytest.raises(ValueError, match="there is none"):
        find_students(tmp_path / "absent")


def test_junit_counts_and_names_every_case() -> None:
    root = ElementTree.fromstring(write_junit(RESULTS))
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["=alice", "bob"]
    alice, bob = suites.values()
    assert [alice.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["2", "1", "0", "0"]
    assert [bob.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["2", "1", "0", "1"]
    failure = alice[1].find("failure")
    assert failure is not None
    assert failure.get("message") == "wrong ? <b> ]]> & ? 中 is wrong"
    assert failure.get("type") == "value"
    assert alice[0].get("classname")


def test_csv_has_a_row_for_each_exercise_and_no_formula() -> None:
    text = write_csv(RESULTS)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["student"], row["exercise"], row["passed"]) for row in rows] == [
        ("'=alice", NORM, "1"),
        ("'=alice", "dpo_loss", "0"),
        ("bob", NORM, "0"),
        ("bob", "dpo_loss", "0"),
    ]
    assert rows[3]["message"] == "no, it is slow"
