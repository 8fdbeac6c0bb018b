"""`stages.cli.exercises_check`: what check, show and grade print, and their exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.cli.main import main
from stages.teach import edition, grader
from stages.teach.record import read_record
from stages.teach.suite import ExerciseTests
from tests.stages.teach.edition import NORM, OURS, write_answer


@pytest.fixture(autouse=True)
def _without_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader, "list_tests", lambda name: ExerciseTests((), 0.0))


def call(*arguments: object) -> int:
    """Run `intro2llm exercises` with these words."""
    return main(["exercises", *map(str, arguments)])


def test_a_check_prints_one_result_or_the_count_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edition.start(tmp_path)
    write_answer(tmp_path, OURS)
    assert call("check", tmp_path, NORM) == 0
    assert "rms_norm: passed" in capsys.readouterr().out
    assert list(read_record(tmp_path).passed) == [NORM]
    assert call("check", tmp_path, "top_k") == 1
    assert "top_k: not solved yet" in capsys.readouterr().out
    write_answer(tmp_path, "return x")
    assert call("check", tmp_path, NORM) == 1
    assert "rms_norm: value" in capsys.readouterr().out
    assert list(read_record(tmp_path).passed) == []


def test_without_a_name_all_that_are_solved_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edition.start(tmp_path)
    path = tmp_path / "pure" / "nn" / "norm.py"
    path.write_text(path.read_text("utf8").replace('raise Unsolved("rms_norm")', "return x"), "utf8")
    assert call("check", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rms_norm: value"
    assert lines[-1].startswith("0 passed, 1 wrong, ")
    assert not any("not solved yet" in line for line in lines[:-1])


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["check"], "FOLDER is required"),
        (["check", tmp_path], "is not a student edition"),
        (["show", tmp_path], "NAME is required"),
        (["grade", tmp_path], "one folder for each student"),
    ):
        assert call(*words) == 2
        assert message in capsys.readouterr().err
    edition.start(tmp_path)
    assert call("check", tmp_path, "rms_nrom") == 2
    assert "did you mean 'rms_norm'?" in capsys.readouterr().err


def test_ours_is_shown_after_passing_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edition.start(tmp_path)
    write_answer(tmp_path, "return x")
    assert call("show", tmp_path, NORM) == 1
    assert "rsqrt" not in capsys.readouterr().out
    write_answer(tmp_path, OURS.replace("upcast", "wide"))
    assert call("show", tmp_path, NORM) == 0
    text = capsys.readouterr().out
    assert "wide = x.to(" in text
    assert "rsqrt" in text
    assert "a call of the example: yours" in text


def test_a_class_is_graded_into_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    students = tmp_path / "class"
    write_answer(students / "alice", OURS)
    write_answer(students / "bob", "return x")
    junit, table = tmp_path / "out.xml", tmp_path / "out.csv"
    assert call("grade", students, "--junit", junit, "--csv", table) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "passed" in lines[0]
    assert [line.partition(":")[0] for line in lines[:2]] == ["alice", "bob"]
    assert junit.read_text("utf8").count('<testsuite name="') == 2
    assert table.read_text("utf8").count(f",{NORM},") == 2
