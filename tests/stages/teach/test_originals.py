"""Our files of the student edition."""

from __future__ import annotations

import pytest

from stages.teach.course import COURSE, course_modules, exercises_of_module, module_path
from stages.teach.originals import CHAPTERS, plan_files, render_module
from stages.teach.source import is_solved
from tests.rules.source import ROOT


@pytest.mark.parametrize("level", ["steps", "docstring"])
def test_every_exercise_is_left_out_of_its_file(level: str) -> None:
    files = plan_files("en", "steps" if level == "steps" else "docstring")
    for module in course_modules():
        text = files[module_path(module)]
        for exercise in exercises_of_module(module):
            assert f'raise Unsolved("{exercise.name}")' in text
            assert not is_solved(text, exercise.function)
    assert ("    # 1. " in files["pure/loss/dpo.py"]) is (level == "steps")


def test_the_pages_are_there() -> None:
    files = plan_files("en", "steps")
    chapters = [chapter for chapter in COURSE if chapter.exercises]
    assert {path for path in files if path.endswith(".md")} == {
        "README.md",
        "AGENTS.md",
        *(f"chapters/{chapter.number:02}-{chapter.name}.md" for chapter in chapters),
    }
    page = f"{chapters[0].number:02}-{chapters[0].name}.md"
    assert files[f"chapters/{page}"] == (ROOT / "stages/teach/chapters" / page).read_text(encoding="utf8")


def test_all_chapters_open_and_end_alike() -> None:
    for chapter in COURSE:
        page = CHAPTERS / f"{chapter.number:02}-{chapter.name}.md"
        title, lead, why, *more = [block for block in page.read_text("utf8").split("\n\n") if block]
        assert title.startswith("# "), page.name
        assert not title.startswith("# Chapter"), page.name
        assert not lead.startswith("#"), page.name
        assert why == "## Why it exists", page.name
        headings = [block.split("\n")[0] for block in more if block.startswith("## ")]
        assert headings[0] == "## Picture", page.name
        kept = ["## Read first", "## Exercises", "## Afterwards"]
        assert [each for each in headings if each in kept] == kept, page.name
        assert headings[-1] == kept[-1], page.name


def test_bodies_are_left_out_of_a_module() -> None:
    assert "raise Unsolved" in render_module("pure.loss.dpo", "en", "steps")


def test_a_language_without_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="not in 'de'"):
        plan_files("de", "steps")
