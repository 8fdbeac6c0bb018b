"""`stages.cli.exercises_mistakes`: mistakes in the flags, in the language of the edition or of the user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.cli.exercises_mistakes import (
    HELP,
    MISTAKES,
    NEEDLESS_VALUE,
    NO_CHOICE,
    NO_HYPHENS,
    NO_NUMBER,
    NO_VALUE,
    REQUIRED,
    SEVERAL_REQUIRED,
    TOO_MANY,
    UNKNOWN,
    UNKNOWN_NEAR,
    UNKNOWN_OFF,
    WORD_NEAR,
)
from stages.cli.main import main
from stages.teach.translate import say, translate


def call(*arguments: object) -> int:
    """Run `intro2llm exercises` with these words."""
    return main(["exercises", *map(str, arguments)])


FLAG_MISTAKES = {
    REQUIRED: ["start"],
    SEVERAL_REQUIRED: ["hint"],
    UNKNOWN_NEAR: ["check", "my", "--wach"],
    UNKNOWN_OFF: ["grade", "my", "--no_junit"],
    UNKNOWN: ["check", "my", "--zzz"],
    NO_CHOICE: ["start", "my", "--level", "hard"],
    NO_NUMBER: ["list", "my", "x"],
    NO_VALUE: ["grade", "my", "--junit"],
    NEEDLESS_VALUE: ["check", "my", "top_p", "--watch", "true"],
    WORD_NEAR: ["check", "my", "-watch"],
    NO_HYPHENS: ["check", "my", "-zz"],
    TOO_MANY: ["start", "my", "more"],
}
"""Form of a mistake in the flags -> arguments that have it."""


@pytest.mark.parametrize("form", MISTAKES)
def test_a_mistake_in_the_flags_is_told_in_the_language_of_the_user_or_of_the_edition(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    arguments = FLAG_MISTAKES[form]
    assert call(*arguments) == 2
    said = capsys.readouterr().err
    end = say(HELP, "zh", mistake="", command=f"intro2llm exercises {arguments[0]}")
    assert said.startswith("intro2llm exercises: ")
    assert said.endswith(f"{end}\n")
    for part in re.split(r"\{\w+\}", translate(form, "zh")):
        assert part in said


def test_a_mistake_in_the_flags_follows_lang_and_the_edition_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANGUAGE", "en")
    my = tmp_path / "my"
    assert call("start", my, "--lang", "zh") == 0
    assert call("hint", my) == 2
    assert call("start", tmp_path / "new", "--lang", "zh", "--level", "hard") == 2
    assert call("hint", tmp_path / "new") == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert say(REQUIRED, "zh", flag="NAME") in first
    assert say(NO_CHOICE, "zh", flag="--level", choices="steps, docstring", value="'hard'") in second
    assert say(REQUIRED, "en", flag="NAME") in third
