"""`intro2llm exercises`: make a folder of exercises, show the progress, give hints, reset an exercise."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from stages.cli.exercises_mistakes import find_asked_language, translate_mistake
from stages.run.options.ranges import ShownAs

if TYPE_CHECKING:
    from stages.teach.course import Exercise
    from stages.teach.progress import Progress
from stages.teach.messages import Sentence
from stages.teach.translate import find_language, say_error


class Action(NamedTuple):
    """A row of the table of actions.

    Fields:
        flags: class of its flags.
        run: "module:function" that takes them and returns the exit code.
    """

    flags: type
    run: str


Folder = Annotated[str, ShownAs("FOLDER"), tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
"""A folder, as the first word after the action."""

CHAPTER_NUMBER = tyro.conf.arg(metavar="CHAPTER")

Name = Annotated[str, ShownAs("NAME"), tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
"""An exercise's name, as the second word."""


@dataclass(frozen=True, kw_only=True)
class ExercisesOptions:
    """Write the bodies of the pipeline's functions yourself: exercises in the files of the source."""

    action: Annotated[
        Literal["start", "list", "check", "show", "hint", "grade", "reset"],
        ShownAs("ACTION"),
        tyro.conf.Positional,
        tyro.conf.arg(metavar="ACTION"),
    ]
    """start makes or upgrades a folder of exercises, list shows the progress, check tells if a function is
    right, show puts yours beside ours, hint gives one hint more, reset takes a body out again, grade checks
    a class; intro2llm exercises ACTION --help lists the flags of one."""


@dataclass(frozen=True, kw_only=True)
class StartFlags:
    """Write the exercises into an empty or new folder, or bring a folder of exercises up to date."""

    folder: Folder
    """Folder of the exercises, such as my/; what you wrote in it is kept."""
    lang: Literal["en", "zh"] | None = None
    """Language of docstrings, pages and messages; None takes that of the folder, en for a new one."""
    level: Literal["steps", "docstring"] | None = None
    """Help in a body: steps leaves the numbered steps as comments, docstring leaves only the docstring; None
    takes that of the folder, steps for a new one."""


@dataclass(frozen=True, kw_only=True)
class ListFlags:
    """Show the chapters, what is solved, and the next exercise with the minutes to expect; or one chapter."""

    folder: Folder
    """Folder of the exercises."""
    chapter: Annotated[int | None, ShownAs("CHAPTER"), tyro.conf.Positional, CHAPTER_NUMBER] = None
    """Number of a chapter, whose exercises are listed with their files; without it all chapters are."""


@dataclass(frozen=True, kw_only=True)
class HintFlags:
    """Give one hint more on an exercise at each call: the formula first, the body last."""

    folder: Folder
    """Folder of the exercises."""
    name: Name
    """Name of the exercise, such as dpo_loss."""


@dataclass(frozen=True, kw_only=True)
class ResetFlags:
    """Take the body of one exercise out again; the file is kept as a backup first.

    The hints on it start again with the first; those that were taken stay counted.
    """

    folder: Folder
    """Folder of the exercises."""
    name: Name
    """Name of the exercise, such as dpo_loss."""


NAME = tyro.conf.arg(metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class CheckFlags:
    """Check one exercise, or all that are solved: right, or what is wrong and an input that shows it."""

    folder: Folder
    """Folder of the exercises."""
    name: Annotated[str | None, ShownAs("NAME"), tyro.conf.Positional, NAME] = None
    """Name of the exercise, such as dpo_loss; without it all that are solved are checked."""
    watch: bool = False
    """Check again whenever a file is saved, until Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class ShowFlags:
    """Show your function beside ours, and how long each takes, once it passes its check."""

    folder: Folder
    """Folder of the exercises."""
    name: Name
    """Name of the exercise, such as dpo_loss."""


@dataclass(frozen=True, kw_only=True)
class GradeFlags:
    """Check the folders of a class, each student apart from the others."""

    folder: Folder
    """Folder that holds a folder of exercises for each student."""
    junit: str | None = None
    """File to write as JUnit's XML: a suite for each student, a case for each exercise."""
    csv: str | None = None
    """File to write as CSV: a row for each student and exercise, with the hints that were taken on it."""


ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        "start": Action(StartFlags, "stages.cli.exercises:start"),
        "list": Action(ListFlags, "stages.cli.exercises:print_progress"),
        "check": Action(CheckFlags, "stages.cli.exercises_check:check"),
        "show": Action(ShowFlags, "stages.cli.exercises_check:show"),
        "hint": Action(HintFlags, "stages.cli.exercises:print_hint"),
        "grade": Action(GradeFlags, "stages.cli.exercises_check:grade"),
        "reset": Action(ResetFlags, "stages.cli.exercises:reset"),
    }
)
"""Name -> row; the names are those of `ExercisesOptions.action`."""

NEW = "{folder}: {exercises} exercises in {files} files; read {folder}/README.md first"
CURRENT = "{folder}: up to date, {exercises} exercises"
CHAPTER = "{number:>2}. {title}  {solved:>2} of {total:>2} written, {passed:>2} passed"
MINUTES = "; {minutes} minutes left"
HINT = "1 hint taken on 1 exercise"
HINTS_ON_ONE = "{count} hints taken on 1 exercise"
HINTS = "{count} hints taken on {exercises} exercises"
EXERCISE = "{number:>2}. {exercise}  {path}  {minutes:>2} minutes  {state}"
NOT_WRITTEN = "not written"
WRITTEN = "written"
CHECKED = "passed"
NEXT = "next: {exercise} in {path}, about {minutes} minutes"
DONE = "all exercises are written, and have passed the check"


def run(options: ExercisesOptions, arguments: Sequence[str] = ()) -> int:
    """Runs an action.

    Args:
        options: the action.
        arguments: its words and flags.

    Returns:
        The exit code.

    Raises:
        ValueError: for a wrong flag, or as the action raises it, like other errors; a `Sentence` in it is
            translated into the language of the edition or, where there is none, of the user.
    """
    from stages.cli.flags import parse
    from stages.cli.subcommands import resolve

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal lacks
    action = ACTIONS[options.action]
    try:
        flags: Any = parse(action.flags, f"exercises {options.action}", arguments)
    except ValueError as error:
        folder = next((word for word in arguments if not word.startswith("-")), "")
        lang = find_asked_language(arguments) or _choose_language(Path(folder))
        raise ValueError(translate_mistake(str(error), lang)) from None
    try:
        return resolve(action.run)(flags)
    except (OSError, ValueError) as error:
        if not error.args or not isinstance(error.args[0], Sentence):
            raise
        asked = flags.lang if isinstance(flags, StartFlags) else None
        raise type(error)(say_error(error, asked or _choose_language(Path(flags.folder)))) from None


def start(flags: StartFlags) -> int:
    """Makes or upgrades an edition, and prints what was written."""
    from stages.teach import edition

    folder = Path(flags.folder)
    report = edition.start(folder, flags.lang, flags.level)
    for line in report.lines:
        print(line)
    text = _translate(NEW if report.new else CURRENT, folder)
    print(text.format(folder=folder, exercises=report.exercises, files=report.files))
    return 0


def print_progress(flags: ListFlags) -> int:
    """Prints the chapters, problems, and the next exercise; or the exercises of a chapter."""
    from stages.teach.course import find_chapter, module_path
    from stages.teach.progress import list_progress
    from stages.teach.wrap import count_columns

    folder = Path(flags.folder)
    progress = list_progress(folder)
    if flags.chapter is not None:
        _print_exercises(progress, find_chapter(flags.chapter).exercises, folder)
        return 0
    titles = [_translate(chapter.title, folder) for chapter in progress.chapters]
    width = max(count_columns(title) for title in titles)
    for title, chapter in zip(titles, progress.chapters, strict=True):
        padded = title + " " * (width - count_columns(title))
        line = _translate(CHAPTER, folder).format(**{**chapter._asdict(), "title": padded})
        left = _translate(MINUTES, folder).format(minutes=chapter.minutes)
        print(line + left if chapter.minutes else line)
    for problem in [*progress.problems, *_describe_hints(folder)]:
        print(problem)
    exercise = progress.next
    if exercise is None:
        print(_translate(DONE, folder))
    else:
        path, text = module_path(exercise.module), _translate(NEXT, folder)
        print(text.format(exercise=exercise.name, path=path, minutes=exercise.minutes))
    return 0


def _print_exercises(progress: Progress, exercises: Sequence[Exercise], folder: Path) -> None:
    """Prints a line for each exercise: its name, its file, the minutes to expect, and if it is written."""
    from stages.teach.course import module_path

    paths = [module_path(exercise.module) for exercise in exercises]
    names = max(len(exercise.name) for exercise in exercises)
    for number, (exercise, path) in enumerate(zip(exercises, paths, strict=True), 1):
        state = WRITTEN if exercise.name in progress.solved else NOT_WRITTEN
        fields = {
            "number": number,
            "exercise": exercise.name.ljust(names),
            "path": path.ljust(max(map(len, paths))),
            "minutes": exercise.minutes,
            "state": _translate(CHECKED if exercise.name in progress.passed else state, folder),
        }
        print(_translate(EXERCISE, folder).format(**fields))


def print_hint(flags: HintFlags) -> int:
    """Prints the next hint on an exercise."""
    from stages.teach.hints import give_hint

    print(give_hint(Path(flags.folder), flags.name))
    return 0


def reset(flags: ResetFlags) -> int:
    """Takes a body out again, and prints where the backup is."""
    from stages.teach import edition

    print(edition.reset(Path(flags.folder), flags.name))
    return 0


def _choose_language(folder: Path) -> str:
    """The language of an edition or, where there is none, of the user."""
    from stages.teach.record import read_record

    try:
        return read_record(folder).lang
    except (OSError, ValueError):
        return find_language(os.environ)


def _describe_hints(folder: Path) -> list[str]:
    """A line on the hints that were taken, if there are any, or on their record, if it is damaged."""
    from stages.teach.hint_record import count_hints

    try:
        counts = count_hints(folder)
    except ValueError as error:
        return [say_error(error, _choose_language(folder))]
    count, exercises = sum(counts.values()), len(counts)
    if not count:
        return []
    text = HINTS_ON_ONE if exercises == 1 else HINTS
    if count == 1:
        text = HINT
    return [_translate(text, folder).format(count=count, exercises=exercises)]


def _translate(text: str, folder: Path) -> str:
    """Translates a sentence into the language of an edition."""
    from stages.teach.record import read_record
    from stages.teach.translate import translate

    return translate(text, read_record(folder).lang)
