"""The table of exercises."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from stages.teach.course import COURSE, exercises_of_module, find_exercise
from stages.teach.source import find_differences, find_marks, leave_out
from tests.rules.docstrings import section
from tests.rules.source import ROOT

EXERCISES = [exercise for chapter in COURSE for exercise in chapter.exercises]


def test_ten_chapters_have_numbers_and_names() -> None:
    assert [chapter.number for chapter in COURSE] == list(range(1, 11))
    assert len({chapter.name for chapter in COURSE}) == 10
    pages = {path.name for path in (ROOT / "stages/teach/chapters").glob("*.md")}
    assert pages <= {f"{chapter.number:02}-{chapter.name}.md" for chapter in COURSE}


def test_names_of_exercises_are_unique_and_plain() -> None:
    names = [exercise.name for exercise in EXERCISES]
    assert len(set(names)) == len(names) == len({(e.module, e.function) for e in EXERCISES})
    assert [name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]+", name)] == []


def test_an_exercise_takes_five_minutes_to_an_hour() -> None:
    assert [exercise for exercise in EXERCISES if not 5 <= exercise.minutes <= 60] == []


def test_an_exercise_is_found_by_its_name_only() -> None:
    assert find_exercise("dpo_loss") in exercises_of_module("pure.loss.dpo")
    assert exercises_of_module("pure.tree") == ()
    with pytest.raises(ValueError, match=r"^unknown exercise 'dpo'"):
        find_exercise("dpo")
    with pytest.raises(ValueError, match="intro2llm exercises list shows"):
        find_exercise("")


def test_every_exercise_can_be_left_out_with_a_mark_for_each_step() -> None:
    for module in sorted({exercise.module for exercise in EXERCISES}):
        text = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf8")
        for exercise in exercises_of_module(module):
            left = leave_out(text, {exercise.function: exercise.name}, "steps")
            assert find_differences(text, left, [exercise.function]) == []
            marks = "\n".join(lines[0] for lines in find_marks(left).values())
            docstring = left[left.index(f"def {exercise.function}(") : left.index("raise Unsolved(")]
            steps = section("\n".join(line[4:] for line in docstring.splitlines()), "Steps") or ""
            listed = re.findall(r"^(\d+)\.", steps, re.MULTILINE)
            assert listed
            assert set(listed) <= set(re.findall(r"(\d+)\.", marks)), exercise


def test_the_course_is_read_without_torch_and_without_our_packages() -> None:
    code = (
        "import sys, stages.teach.course, stages.teach.source\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'pure', 'data_pipes', 'numpy')])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
