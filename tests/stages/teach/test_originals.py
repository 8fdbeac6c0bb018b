"""Our files of the student edition."""

from __future__ import annotations

import pytest

from stages.teach.course import COURSE, exercises_of_module, module_path
from stages.teach.originals import course_modules, plan_files, read_original, render_module
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


def test_our_source_is_read_without_an_import() -> None:
    assert read_original("pure.loss.dpo") == (ROOT / "pure/loss/dpo.py").read_text(encoding="utf8")
    assert "raise Unsolved" in render_module("pure.loss.dpo", "en", "steps")


def test_a_language_without_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="not in 'de'"):
        plan_files("de", "steps")


def test_a_wheel_has_the_pages() -> None:
    build = (
        (ROOT / "pyproject.toml").read_text(encoding="utf8").partition("[tool.setuptools.package-data]")[2]
    )
    assert '"chapters/*.md"' in build.partition("\n[")[0]
    assert '"pages/*.md"' in build.partition("\n[")[0]
