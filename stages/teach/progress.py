"""Progress in an edition: what is solved, what has passed the check, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stages.teach import messages
from stages.teach.course import COURSE, Exercise, course_modules, module_path
from stages.teach.files import read_original, read_parsed
from stages.teach.merge import digest_functions
from stages.teach.record import Record, digest_work, read_record
from stages.teach.source import is_solved
from stages.teach.translate import say, say_error


class ChapterProgress(NamedTuple):
    """Progress in one chapter.

    Fields:
        number: of the chapter.
        title: of the chapter.
        solved: exercises with a body, checked or not.
        passed: exercises whose function passed the check, and has not been changed since.
        total: all exercises.
        minutes: to expect for those that are not solved.
    """

    number: int
    title: str
    solved: int
    passed: int
    total: int
    minutes: int


class Progress(NamedTuple):
    """Progress in an edition.

    Fields:
        chapters: those that have exercises.
        next: the first exercise that is not solved, else the first that has not passed; None at the end.
        problems: files that cannot be read, a sentence each; their exercises count as not solved.
        solved, passed: names of the exercises that are, as in `ChapterProgress`.
    """

    chapters: tuple[ChapterProgress, ...]
    next: Exercise | None
    problems: tuple[str, ...]
    solved: frozenset[str]
    passed: frozenset[str]


def list_progress(folder: Path) -> Progress:
    """Lists what is solved, and what has passed the check.

    Args:
        folder: the edition.

    Raises:
        FileNotFoundError: if the folder is no edition.
        ValueError: for a damaged record.
    """
    record = read_record(folder)
    texts: dict[str, str] = {}
    problems: list[str] = []
    for module in course_modules():
        try:
            texts[module] = read_parsed(folder, module).text
        except ValueError as error:
            problems.append(say_error(error, record.lang))
    digests = {module: digest_functions(text) for module, text in texts.items()}
    for exercise in _exercises():
        if exercise.function not in digests.get(exercise.module, {exercise.function: ""}):
            words = {"path": module_path(exercise.module), "function": exercise.function, "folder": folder}
            problems.append(say(messages.MISSING, record.lang, **words, exercise=exercise.name))
    solved = {e.name for e in _exercises() if is_solved(texts.get(e.module, ""), e.function)}
    passed = {e.name for e in _exercises() if e.name in solved and _has_passed(record, e, texts[e.module])}
    chapters = []
    for chapter in COURSE:
        names = {exercise.name for exercise in chapter.exercises}
        minutes = sum(exercise.minutes for exercise in chapter.exercises if exercise.name not in solved)
        counts = (len(names & solved), len(names & passed), len(names), minutes)
        if names:
            chapters.append(ChapterProgress(chapter.number, chapter.title, *counts))
    unsolved = [exercise for exercise in _exercises() if exercise.name not in solved]
    unchecked = [exercise for exercise in _exercises() if exercise.name not in passed]
    following = next(iter([*unsolved, *unchecked]), None)
    return Progress(tuple(chapters), following, tuple(problems), frozenset(solved), frozenset(passed))


def _exercises() -> Iterator[Exercise]:
    """All exercises, in the order of the course."""
    for chapter in COURSE:
        yield from chapter.exercises


def _has_passed(record: Record, exercise: Exercise, text: str) -> bool:
    """Tells if the function that passed the check is the one in the file."""
    digest = record.passed.get(exercise.name, "")
    return digest != "" and digest == digest_work(read_original(exercise.module), text, exercise.function)
