"""`intro2llm exercises`: start, list, hint, reset."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from stages.cli.exercises import ACTIONS, ExercisesOptions
from stages.cli.main import main
from stages.cli.mistakes import find_mistake
from stages.teach import messages
from stages.teach.record import RECORD
from stages.teach.translate import say


def test_characters_that_the_terminal_lacks_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["exercises", "start", str(tmp_path / "学")]) == 0
    output.flush()
    assert output.buffer.getvalue().startswith(str(tmp_path).encode() + b"/\\u5b66: 106 exercises")  # type: ignore[attr-defined]


def call(*arguments: object) -> int:
    """Run `intro2llm exercises` with these words."""
    return main(["exercises", *map(str, arguments)])


def test_a_folder_is_started_solved_listed_and_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    my = tmp_path / "my"
    assert call("start", my, "--level", "docstring") == 0
    assert capsys.readouterr().out.endswith(f" files; read {my}/README.md first\n")
    path = my / "data_pipes/tokenizer/bpe.py"
    assert "    # 1. " not in path.read_text()
    path.write_text(path.read_text().replace('raise Unsolved("merge_pair")', "return []"))
    assert call("list", my) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(" 1. Tokenizer ")
    assert "  1 of " in lines[0]
    assert "  0 passed; " in lines[0]
    assert lines[-1] == "next: count_pairs in data_pipes/tokenizer/bpe.py, about 10 minutes"
    assert call("list", my, 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["1.", "merge_pair", "data_pipes/tokenizer/bpe.py", "10", "minutes", "written"]
    assert lines[8].split() == [
        "9.",
        "merge_word",
        "data_pipes/tokenizer/merge.py",
        "45",
        "minutes",
        "not",
        "written",
    ]
    assert len(lines) == 9
    assert call("reset", my, "merge_pair") == 0
    assert capsys.readouterr().out.startswith(
        "merge_pair: the body is taken out of data_pipes/tokenizer/bpe.py;"
    )
    assert call("start", my) == 0
    assert capsys.readouterr().out.startswith(f"{my}: up to date, ")


def test_hints_are_printed_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    my = tmp_path / "my"
    assert call("start", my) == 0
    capsys.readouterr()
    assert call("hint", my, "top_p") == 0
    assert capsys.readouterr().out.startswith(
        "top_p: hint 1 of 6, the formula:\n  keep v where Σ_{l_w > l_v}"
    )
    assert call("hint", my, "top_p") == 0
    assert capsys.readouterr().out.startswith("top_p: hint 2 of 6 on step 1 of 3, what it does:\n  Sort the ")
    assert call("list", my) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "2 hints taken on 1 exercise"
    assert call("hint", my, "rms_norm") == 0
    assert call("list", my) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "3 hints taken on 2 exercises"
    (my / ".intro2llm/hints.json").write_text("{")
    assert call("list", my) == 0
    assert "hints.json is damaged: not valid JSON, line 1" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ACTION is required"),
        (
            ["strat", "my"],
            "ACTION: expected one of start, list, check, show, hint, grade, reset, got 'strat'",
        ),
        (["start"], "FOLDER is required"),
        (["start", "my", "more"], "unexpected 'more' after FOLDER"),
        (["start", "my", "--lang", "fr"], "--lang: expected one of en, zh, got 'fr'"),
        (["start", "my", "--levle", "steps"], "--levle: unknown flag; did you mean --level?"),
        (["reset", "my"], "NAME is required"),
        (["hint", "my"], "NAME is required"),
        (["hint", "nowhere", "top_p"], "nowhere is not a student edition"),
        (["list", "nowhere"], "nowhere is not a student edition"),
        (["list", "nowhere", "x"], "CHAPTER: "),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGUAGE", "en")
    assert call(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"intro2llm exercises: {message}")
    assert said.count("\n") == 1


def test_errors_are_in_the_language_of_the_edition_or_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    my = tmp_path / "my"
    monkeypatch.setenv("LANGUAGE", "en")
    assert call("start", my, "--lang", "zh") == 0
    assert call("hint", my, "top_pp") == 2
    unknown = say(messages.UNKNOWN_EXERCISE_NEAR, "zh", name="top_pp", near="top_p")
    assert capsys.readouterr().err == f"intro2llm exercises: {unknown}\n"
    (my / "notes").mkdir()
    (my / "notes" / "mine.txt").write_text("mine")
    assert call("start", my / "notes", "--lang", "zh") == 2
    assert call("reset", my / "notes", "top_p") == 2
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    assert call("list", my / "notes") == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert say(messages.NOT_EMPTY, "zh", folder=my / "notes", name="mine.txt") in first
    fields = {"folder": my / "notes", "record": RECORD}
    assert say(messages.NO_EDITION, "en", **fields) in second
    assert say(messages.NO_EDITION, "zh", **fields) in third
    assert [path.name for path in (my / "notes").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(action, "--help")
    assert "FOLDER" in capsys.readouterr().out


def test_the_actions_are_those_of_the_flag() -> None:
    assert get_args(get_type_hints(ExercisesOptions)["action"]) == tuple(ACTIONS)
    assert find_mistake(ExercisesOptions, ["list"]) == ""
