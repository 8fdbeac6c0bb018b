"""The table of exercises."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stages.teach.course import (
    COURSE,
    Chapter,
    Exercise,
    course_modules,
    exercises_of_module,
    find_chapter,
    find_exercise,
)
from stages.teach.files import read_original
from stages.teach.source import find_differences, find_marks, leave_out
from stages.teach.syntax import find_function
from tests.rules.docstrings import section
from tests.rules.source import PACKAGES, ROOT

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
    with pytest.raises(ValueError, match=r"^unknown exercise 'dpo'; did you mean 'dpo_loss'\?"):
        find_exercise("dpo")
    with pytest.raises(ValueError, match="`intro2llm exercises list FOLDER CHAPTER` shows"):
        find_exercise("")
    with pytest.raises(ValueError, match="there is no chapter 11; the chapters are 1 to 10"):
        find_chapter(11)


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


def list_helpers(exercise: Exercise) -> Iterator[str]:
    """Yield the functions that the steps of an exercise name and that no file of an edition holds."""
    text, modules = read_original(exercise.module), set(course_modules())
    spans = " ".join(re.findall(r"`([^`]*)`", read_steps(exercise)))
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(tuple(PACKAGES)):
            continue
        for alias in node.names:
            shown = alias.asname or alias.name
            for name in re.findall(rf"(?<![\w.]){shown}(?:\.\w+)?\b", spans):
                found = pydoc.locate(f"{node.module}.{alias.name}{name.removeprefix(shown)}")
                if inspect.isfunction(found) and found.__module__ not in modules:
                    yield name


def read_steps(exercise: Exercise) -> str:
    """Read the steps in the docstring of an exercise."""
    function = find_function(ast.parse(read_original(exercise.module)), exercise.function)
    assert isinstance(function, ast.FunctionDef)
    found = re.search(r"\nSteps:\n(.*?)(\n\n|\Z)", ast.get_docstring(function) or "", re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize("chapter", COURSE, ids=lambda chapter: chapter.name)
def test_steps_or_page_show_the_call_of_a_function_that_a_learner_cannot_read(chapter: Chapter) -> None:
    page = (ROOT / "stages/teach/chapters" / f"{chapter.number:02}-{chapter.name}.md").read_text("utf8")
    blocks = "\n".join(re.findall(r"```\n(.*?)```", page, re.DOTALL))
    hidden = {
        (exercise.name, name)
        for exercise in chapter.exercises
        for name in list_helpers(exercise)
        if not re.search(rf"(?<![\w.]){re.escape(name)}\(\S", f"{read_steps(exercise)}\n{blocks}")
    }
    assert hidden == set()


def test_functions_that_steps_name_are_found() -> None:
    assert "check_labels" in list_helpers(find_exercise("cross_entropy"))
    assert "random.fold_in" in list_helpers(find_exercise("step"))
    assert "rms_norm" not in list_helpers(find_exercise("attention"))  # a file of the edition has it
