"""`intro2llm exercises check, show, grade`: what they print."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipes.workers import usable_cores
from stages.teach import classroom, grader, messages
from stages.teach.course import COURSE, Exercise, find_exercise
from stages.teach.files import read_answer, read_original
from stages.teach.hint_record import count_hints
from stages.teach.messages import Sentence
from stages.teach.prose import translate_source
from stages.teach.record import read_record, record_result
from stages.teach.report import Result, Translate, describe_result
from stages.teach.show import cut_body, describe_seconds, put_beside
from stages.teach.translate import find_language, read_catalogues, say_error
from stages.teach.translate import translate as translate_to
from stages.teach.watch import watch

if TYPE_CHECKING:
    from stages.cli.exercises import CheckFlags, GradeFlags, ShowFlags

MOST_PROCESSES = 8
"""Checks of a class that run at a time, at most."""


def check(flags: CheckFlags) -> int:
    """Runs `check`."""
    folder = Path(flags.folder)
    return run_check(folder, flags.name or "", watching=flags.watch, translate=choose_language(folder))


def show(flags: ShowFlags) -> int:
    """Runs `show`."""
    folder = Path(flags.folder)
    return run_show(folder, flags.name, translate=choose_language(folder))


def grade(flags: GradeFlags) -> int:
    """Runs `grade`; its messages are in the language that the students share, or else in the user's."""
    folder = Path(flags.folder)
    lang = classroom.find_shared_language(classroom.find_students(folder)) or find_language(os.environ)
    return run_grade(folder, junit=flags.junit or "", table=flags.csv or "", lang=lang)


def choose_language(folder: Path) -> Translate:
    """Returns the translation into the language of an edition; raises FileNotFoundError if it is none."""
    return partial(translate_to, lang=read_record(folder).lang)


def run_check(folder: Path, name: str = "", *, watching: bool = False, translate: Translate = str) -> int:
    """Checks one exercise, or all that are solved, and prints the results.

    Args:
        folder: the edition.
        name: of the exercise; "" checks all, and counts those that are not solved.
        watching: True checks again whenever a file is saved, until Ctrl-C.
        translate: into the learner's language.

    Returns:
        0 if everything that is solved is right, else 1; a single exercise that is not solved is 1.
    """
    exercises = [find_exercise(name)] if name else list_exercises()
    with grader.open_server() as server:
        if watching:
            return _print_watched(folder, exercises, server, translate)
        results = []
        for exercise in exercises:
            result = grader.check(folder, exercise, server)
            results.append(result)
            if name or result.kind != "unsolved":
                print(describe_result(result, translate), flush=True)
            _keep_result(folder, result, translate)
    if not name:
        print(_count(results, translate))
    return int(any(not result.passed and (name or result.kind != "unsolved") for result in results))


def run_show(folder: Path, name: str, *, translate: Translate = str) -> int:
    """Prints a learner's function beside ours, and the speed of both, once it passes its check.

    Args:
        folder: the edition.
        name: of the exercise.
        translate: into the learner's language.

    Returns:
        0, or 1 if the exercise does not pass; then ours is not shown.
    """
    exercise = find_exercise(name)
    with grader.open_server() as server:
        result = grader.check(folder, exercise, server)
        _keep_result(folder, result, translate)
        if not result.passed:
            print(describe_result(result, translate))
            print(translate(messages.SHOW_LATER))
            return 1
        speed = grader.check(folder, exercise, server, speed=True)
    yours, lang = read_answer(folder, exercise.module).text, read_record(folder).lang
    ours = translate_source(read_original(exercise.module), read_catalogues(lang))
    left = [translate(messages.YOURS), "", *cut_body(yours, exercise.function)]
    right = [translate(messages.OURS), "", *cut_body(ours, exercise.function)]
    print(put_beside(left, right, shutil.get_terminal_size().columns))
    if "ours" in speed.fields:
        values = {key: describe_seconds(float(value)) for key, value in speed.fields.items()}
        print(translate(messages.SPEED).format(**values))
    return 0


def run_grade(folder: Path, *, junit: str = "", table: str = "", lang: str = "en") -> int:
    """Checks the editions of a class, each student apart from the others.

    Args:
        folder: holds a folder for each student.
        junit: file to write as JUnit's XML; "" writes none.
        table: file to write as CSV; "" writes none.
        lang: language of the messages.

    Returns:
        0: a student's mistakes are results, no error.

    Raises:
        ValueError: if there is no edition, or the two files are one; its argument is a `Sentence`.
        OSError: if a file cannot be written; this is known before the first check.
    """
    translate = partial(translate_to, lang=lang)
    students = classroom.find_students(folder)
    if junit and junit == table:
        raise ValueError(Sentence(messages.ONE_FILE, {"path": junit}))
    for path in filter(None, (junit, table)):
        Path(path).open("a").close()
    for other in classroom.find_others(folder, students):
        print(translate(messages.LEFT_OUT).format(student=classroom.name_student(other)), file=sys.stderr)
    processes = min(usable_cores(), MOST_PROCESSES)
    results: dict[str, Sequence[Result]] = {}
    hints: dict[str, Mapping[str, int]] = {}
    for student, row in classroom.grade(students, list_exercises(), processes):
        name = classroom.name_student(student)
        results[name] = row
        print(f"{name}: {_count(row, translate)}", flush=True)
        try:
            hints[name] = count_hints(student)
        except (ValueError, OSError) as error:
            print(f"{name}: {say_error(error, lang)}", flush=True)
        if junit:
            Path(junit).write_text(classroom.write_junit(results, translate), encoding="utf8")
        if table:
            Path(table).write_text(classroom.write_csv(results, hints, translate), encoding="utf8")
    for path in filter(None, (junit, table)):
        print(path)
    return 0


def list_exercises() -> list[Exercise]:
    """Lists the exercises of all chapters."""
    return [exercise for chapter in COURSE for exercise in chapter.exercises]


def _print_watched(
    folder: Path, exercises: Sequence[Exercise], server: grader.Server, translate: Translate
) -> int:
    """Prints results as files are saved; Ctrl-C ends it."""
    shown = 0
    try:
        for result in watch(folder, exercises, server):
            shown += 1
            if result.kind != "unsolved" or len(exercises) == 1 or shown > len(exercises):
                print(describe_result(result, translate), flush=True)
            _keep_result(folder, result, translate)
            if shown == len(exercises):
                print(translate(messages.WATCHING).format(folder=folder), flush=True)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return 0


def _keep_result(folder: Path, result: Result, translate: Translate) -> None:
    """Keeps a result in the record, unless the function cannot be read; says if it cannot be written."""
    if not result.passed and result.kind in ("syntax", "missing"):
        return
    try:
        record_result(folder, result.exercise, result.digest if result.passed else "")
    except OSError as error:
        text = translate(messages.NOT_KEPT).format(reason=error.strerror or error)
        print(text, file=sys.stderr, flush=True)


def _count(results: Sequence[Result], translate: Translate) -> str:
    """Says how many exercises are right, wrong, and not solved (a function that is missing is not)."""
    passed = sum(result.passed for result in results)
    unsolved = sum(result.kind in classroom.NOT_TRIED for result in results)
    wrong = len(results) - passed - unsolved
    return translate(messages.COUNT).format(passed=passed, wrong=wrong, unsolved=unsolved)
