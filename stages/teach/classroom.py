"""Check the folders of a class, each student apart from the others, and write JUnit and CSV."""

from __future__ import annotations

import csv
import io
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event

from stages.teach import messages
from stages.teach.course import COURSE, Exercise
from stages.teach.grader import Server, check, open_server
from stages.teach.messages import Sentence
from stages.teach.record import read_record
from stages.teach.report import Result, Translate, describe_result, fail, fill_message

COLUMNS = ("student", "chapter", "exercise", "passed", "kind", "step", "seconds", "hints", "message")
"""Columns of the CSV; hints are those that the student took on the exercise."""

NOT_TRIED = ("unsolved", "missing")
"""Kinds of result of an exercise that a student has not solved."""


def find_students(folder: Path) -> list[Path]:
    """Finds the editions in a folder: its subfolders that have one of the course's packages.

    Raises:
        ValueError: if there is none; its argument is a `Sentence`.
    """
    packages = {exercise.module.split(".")[0] for chapter in COURSE for exercise in chapter.exercises}
    if not folder.is_dir():
        raise ValueError(Sentence(messages.NO_CLASS, {"folder": str(folder)}))
    found = [
        path
        for path in sorted(folder.iterdir())
        if any(os.path.isdir(path / package) for package in packages)
    ]
    if not found:
        raise ValueError(Sentence(messages.NO_STUDENT, {"folder": str(folder)}))
    return found


def find_shared_language(students: Sequence[Path]) -> str:
    """Finds the language of the editions of a class; "" if they differ in it, or none has a record."""
    languages = set()
    for student in students:
        with suppress(OSError, ValueError):
            languages.add(read_record(student).lang)
    return languages.pop() if len(languages) == 1 else ""


def find_others(folder: Path, students: Sequence[Path]) -> list[Path]:
    """Finds the folders of a class that are no editions; hidden ones do not count.

    Args:
        folder: of the class.
        students: those that are.
    """
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path not in (*students, *hidden)]


def name_student(folder: Path) -> str:
    r"""Names a student after the folder; bytes that are not UTF-8, such as a name in GBK, are escaped.

    Example:
        >>> name_student(Path("class/\udcd5\udcc5 2"))
        '\\xd5\\xc5 2'
    """
    text = os.fsencode(folder.name).decode("utf8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def grade(
    students: Sequence[Path], exercises: Sequence[Exercise], processes: int
) -> Iterator[tuple[Path, list[Result]]]:
    """Checks all exercises of all students.

    Args:
        students: their folders.
        exercises: of the course.
        processes: checks at a time, >= 1; each check is a process of its own.

    Returns:
        An iterator over (folder, results in the order of `exercises`), in the order of `students`.
    """
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        idle: SimpleQueue[Server] = SimpleQueue()
        for _ in range(processes):
            idle.put(stack.enter_context(open_server()))
        closing = Event()
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        stack.callback(closing.set)
        pending = {
            student: [threads.submit(_check_idle, idle, closing, student, each) for each in exercises]
            for student in students
        }
        for student, results in pending.items():
            yield student, [result.result() for result in results]


def write_junit(results: Mapping[str, Sequence[Result]], translate: Translate = str) -> str:
    """Writes results as JUnit's XML: a suite for each student, a case for each exercise.

    An exercise that is not solved is skipped, one that is wrong a failure.

    Args:
        results: student -> results.
        translate: into the language of the messages.
    """
    root = ElementTree.Element("testsuites")
    for student, row in results.items():
        skipped = [result for result in row if result.kind in NOT_TRIED]
        failed = [result for result in row if not result.passed and result.kind not in NOT_TRIED]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=student,
            tests=str(len(row)),
            failures=str(len(failed)),
            errors="0",
            skipped=str(len(skipped)),
            time=f"{sum(result.seconds for result in row):.2f}",
        )
        for result in row:
            _add_case(suite, result, translate)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def write_csv(
    results: Mapping[str, Sequence[Result]],
    hints: Mapping[str, Mapping[str, int]],
    translate: Translate = str,
) -> str:
    """Writes results as CSV, a row for each student and exercise, columns `COLUMNS`.

    Args:
        results: student -> results.
        hints: student -> exercise -> hints that were taken; of a student who is not there they are unknown,
            and the cells are empty.
        translate: into the language of the messages.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for student, row in results.items():
        for result in row:
            message = "" if result.passed else fill_message(result, translate)
            writer.writerow(
                [
                    _plain_cell(student),
                    _chapter_of(result.exercise),
                    result.exercise,
                    int(result.passed),
                    result.kind,
                    result.step or "",
                    f"{result.seconds:.2f}",
                    hints[student].get(result.exercise, 0) if student in hints else "",
                    _plain_cell(" ".join(message.split())),
                ]
            )
    return text.getvalue()


def _check_idle(idle: SimpleQueue[Server], closing: Event, student: Path, exercise: Exercise) -> Result:
    """Checks an exercise with a server that is idle; with a new one if that has ended."""
    server = idle.get()
    try:
        result = check(student, exercise, server)
        if server.process.poll() is not None and not closing.is_set():
            with open_server() as own:
                return check(student, exercise, own)
        return result
    except Exception as error:  # of this exercise alone
        return fail(exercise.name, "error", messages.ERROR, error=f"{type(error).__name__}: {error}")
    finally:
        idle.put(server)


def _add_case(suite: ElementTree.Element, result: Result, translate: Translate) -> None:
    """Adds a test case to a suite."""
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_chapter_of(result.exercise),
        name=result.exercise,
        time=f"{result.seconds:.2f}",
    )
    if result.passed:
        return
    message = _printable(fill_message(result, translate))
    if result.kind in NOT_TRIED:
        ElementTree.SubElement(case, "skipped", message=message)
    else:
        failure = ElementTree.SubElement(case, "failure", message=message, type=result.kind)
        failure.text = _printable(describe_result(result, translate))


def _chapter_of(exercise: str) -> str:
    """The name of the chapter that holds an exercise."""
    return next((c.name for c in COURSE for each in c.exercises if each.name == exercise), "")


def _printable(text: str) -> str:
    """A text without the characters that XML does not allow."""
    return re.sub("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def _plain_cell(text: str) -> str:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
