"""`stages.teach.classroom`: each student apart from the others; JUnit and CSV that other programs read."""

from __future__ import annotations

import csv
import io
import os
import xml.etree.ElementTree as ElementTree
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.teach import classroom, edition
from stages.teach.classroom import (
    COLUMNS,
    find_others,
    find_shared_language,
    find_students,
    grade,
    name_student,
    write_csv,
    write_junit,
)
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


def test_folders_that_are_no_editions_are_named(tmp_path: Path) -> None:
    write_answer(tmp_path / "alice", OURS)
    for name in ("empty", ".git"):
        (tmp_path / name).mkdir()
    assert [path.name for path in find_others(tmp_path, find_students(tmp_path))] == ["empty"]


def test_a_name_that_no_file_can_hold_is_escaped() -> None:
    assert name_student(Path("class/张 三")) == "张 三"
    assert name_student(Path("class/a\nb")) == "a\\nb"
    assert name_student(Path("class") / os.fsdecode("张".encode("gbk"))) == "\\xd5\\xc5"


def test_an_error_of_one_check_does_not_end_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_check(*rest: object) -> Result:
        raise RuntimeError("odd")

    server = SimpleNamespace(process=SimpleNamespace(poll=lambda: None))
    monkeypatch.setattr(classroom, "open_server", lambda: nullcontext(server))
    monkeypatch.setattr(classroom, "check", fail_to_check)
    [(_, row)] = grade([tmp_path], [find_exercise(NORM)], processes=1)
    assert (row[0].kind, row[0].fields["error"]) == ("error", "RuntimeError: odd")


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
    text = write_csv(RESULTS, {"bob": {NORM: 3}})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["student"], row["exercise"], row["passed"]) for row in rows] == [
        ("'=alice", NORM, "1"),
        ("'=alice", "dpo_loss", "0"),
        ("bob", NORM, "0"),
        ("bob", "dpo_loss", "0"),
    ]
    assert rows[3]["message"] == "no, it is slow"
    assert [row["hints"] for row in rows] == ["", "", "3", "0"]  # those of alice are unknown


def test_the_language_of_a_class_is_that_which_all_editions_share(tmp_path: Path) -> None:
    students = [tmp_path / name for name in "abc"]
    for student, lang in zip(students, ("zh", "zh", "en"), strict=True):
        edition.start(student, lang)
    assert find_shared_language(students[:2]) == "zh"
    assert find_shared_language(students) == ""
    assert find_shared_language([*students[:1], tmp_path / "none"]) == "zh"
    assert find_shared_language([]) == ""
