"""docs/course.md and docs/class.md: commands print what the pages show, and numbers are those of the course."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from stages.cli.exercises_check import MOST_PROCESSES
from stages.cli.main import main
from stages.teach import grader, messages, verdict
from stages.teach.cheats import replace_body
from stages.teach.classroom import COLUMNS
from stages.teach.course import COURSE
from stages.teach.grader import LIMITS, open_server
from stages.teach.suite import ExerciseTests
from tests.rules.source import ROOT

COURSE_PAGE, CLASS_PAGE, README = (
    (ROOT / path).read_text(encoding="utf8") for path in ("docs/course.md", "docs/class.md", "README.md")
)
BLOCKS = re.compile(r"^(<!-- answer -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXERCISES = [exercise for chapter in COURSE for exercise in chapter.exercises]


def split_console(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield words of each command of a block after `intro2llm`, and what it shows as printed."""
    for part in re.split(r"^\$ intro2llm ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command.split(), printed


def mask(text: str) -> str:
    """Leave out counts and seconds of a check that passed."""
    return re.sub("passed; .*", "passed", text)


def test_the_commands_of_the_course_print_what_its_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checks run without the project's tests, in one server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grader, "list_tests", lambda name: ExerciseTests((), 0.0))
    shown = 0
    with open_server() as server:
        monkeypatch.setattr(grader, "open_server", lambda: nullcontext(server))
        for answer, kind, text in BLOCKS.findall(COURSE_PAGE):
            if answer:
                path = Path("my/pure/nn/norm.py")
                path.write_text(replace_body(path.read_text("utf8"), "rms_norm", text), "utf8")
            for words, printed in split_console(text) if kind == "console" else ():
                main(words)
                assert mask(capsys.readouterr().out) == mask(printed), words
                shown += 1
    assert shown == 11
    assert 'raise Unsolved("rms_norm")' in COURSE_PAGE


def test_the_pages_and_the_readme_have_the_numbers_of_the_course() -> None:
    minutes = sum(exercise.minutes for exercise in EXERCISES)
    size = f"{len(COURSE)} chapters, {len(EXERCISES)} exercises and about {minutes / 60:.0f} hours"
    assert size in COURSE_PAGE
    counts = re.findall(r"(\d+) passed, (\d+) wrong, (\d+) not solved", CLASS_PAGE)
    assert [sum(map(int, row)) for row in counts] == [len(EXERCISES)] * 3
    assert f"up to date, {len(EXERCISES)} exercises" in CLASS_PAGE
    section = README.partition("## The student edition\n\n")[2].partition("\n\n")[0]
    assert len(section.splitlines()) == 5
    assert f"{len(EXERCISES)} functions in {len(COURSE)} chapters" in section
    assert "](docs/course.md)" in section


def test_the_page_for_teachers_has_the_columns_kinds_and_limits() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", CLASS_PAGE, re.MULTILINE)) == COLUMNS
    assert f"{','.join(COLUMNS)}\n" in CLASS_PAGE
    row = re.search(r"^\| `kind` .*$", CLASS_PAGE, re.MULTILINE)
    assert row is not None
    assert set(re.findall("`(\\w+)`", row[0])) == {"kind", *messages.KINDS}
    for words in (
        f"| {LIMITS.seconds:g} s of the processor, {LIMITS.stage_seconds:g} s for each",
        f"| {LIMITS.per_second:g} times the seconds that they take",
        f"| {grader.WAIT:g} times the limits of work",
        f"| {verdict.SLOWER} times as long, if that is {verdict.SLOW_SECONDS:g} s",
        f"| {LIMITS.megabytes:,} MB more",
        f"| {LIMITS.kilobytes:,} KB",
        f"at most {MOST_PROCESSES}.",
    ):
        assert words in CLASS_PAGE, words


def test_the_course_names_the_kinds_of_failure() -> None:
    told = set(messages.KINDS.values()) - {
        messages.KINDS[kind] for kind in ("unsolved", "missing", "exit", "error")
    }
    sentence = COURSE_PAGE.partition("A failure is one of: ")[2].partition(";")[0]
    assert set(sentence.replace("\n", " ").split(", ")) == told
