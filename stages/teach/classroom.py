"""Check the folders of a class, each student apart from the others, and write JUnit and CSV."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from stages.teach.course import COURSE, Exercise
from stages.teach.grader import Server, check, open_server
from stages.teach.report import Result, Translate, describe_result, fill_message

COLUMNS = ("student", "chapter", "exercise", "passed", "kind", "step", "seconds", "message")
"""Columns of the CSV."""

NOT_TRIED = ("unsolved", "missing")
"""Kinds of result of an exercise that a student has not solved."""


def find_students(folder: Path) -> list[Path]:
    """Finds the editions in a folder: its subfolders that have one of the course's packages.

    Raises:
        ValueError: if there is none.
    """
    packages = {exercise.module.split(".")[0] for chapter in COURSE for exercise in chapter.exercises}
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with one folder for each student, and there is none")
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and any((path / package).is_dir() for package in packages)
    ]
    if not found:
        raise ValueError(
            f"{folder}: expected a folder with one folder for each student, made by "
            "`intro2llm exercises start`; none of its folders is one"
        )
    return found


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
        idle: SimpleQueue[Server] = SimpleQueue()
        for _ in range(processes):
            idle.put(stack.enter_context(open_server()))
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        pending = {
            student: [threads.submit(_check_idle, idle, student, exercise) for exercise in exercises]
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


def write_csv(results: Mapping[str, Sequence[Result]], translate: Translate = str) -> str:
    """Writes results as CSV, a row for each student and exercise, columns `COLUMNS`."""
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
                    _plain_cell(" ".join(message.split())),
                ]
            )
    return text.getvalue()


def _check_idle(idle: SimpleQueue[Server], student: Path, exercise: Exercise) -> Result:
    """Checks an exercise with a server that is idle."""
    server = idle.get()
    try:
        return check(student, exercise, server)
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
