"""`stages.cli.exercises_check`: what check, show and grade print, and their exit codes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stages.cli import exercises_check
from stages.cli.main import main
from stages.teach import edition, grader, messages
from stages.teach.record import read_record
from stages.teach.suite import ExerciseTests
from stages.teach.translate import say, translate
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


def test_a_result_that_cannot_be_kept_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*rest: object) -> None:
        raise PermissionError(errno.EACCES, "cannot write it")

    monkeypatch.setattr(exercises_check, "record_result", refuse)
    edition.start(tmp_path)
    write_answer(tmp_path, "return x")
    assert call("check", tmp_path, NORM) == 1
    out, err = capsys.readouterr()
    assert "rms_norm: value" in out
    assert "the result is not kept: cannot write it" in err


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


def test_a_class_is_graded_into_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANGUAGE", "en")
    students = tmp_path / "class"
    write_answer(students / "alice", OURS)
    write_answer(students / "bob", "return x")
    (students / "bob" / ".intro2llm").mkdir()
    (students / "bob" / ".intro2llm" / "hints.json").write_text("{")
    junit, table = tmp_path / "out.xml", tmp_path / "out.csv"
    (students / "empty").mkdir()
    assert call("grade", students, "--junit", table, "--csv", table) == 2
    assert "give each its own" in capsys.readouterr().err
    assert call("grade", students, "--junit", junit, "--csv", table) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "empty: left out" in err
    assert "1 passed, 0 wrong, 105 not solved yet" in lines[0]
    assert [line.partition(":")[0] for line in lines[:3]] == ["alice", "bob", "bob"]
    assert "hints.json is damaged" in lines[2]
    assert junit.read_text("utf8").count('<testsuite name="') == 2
    assert table.read_text("utf8").count(f",{NORM},") == 2


def test_a_class_whose_editions_are_in_chinese_is_graded_in_chinese(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANGUAGE", "en")
    for name in ("甲", "乙"):
        edition.start(tmp_path / name, "zh")
    write_answer(tmp_path / "甲", "return None")
    table = tmp_path / "out.csv"
    assert call("grade", tmp_path, "--csv", table) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"乙: {say(messages.COUNT, 'zh', passed=0, wrong=0, unsolved=106)}"
    nothing = say(messages.NOTHING, "zh", place=translate(messages.RESULT, "zh"))
    assert nothing in table.read_text("utf8")
