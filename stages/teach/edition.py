"""The student edition on disk: start or upgrade a folder, reset an exercise, list the progress.

Nothing that a learner wrote is lost: a changed file is copied to `.intro2llm/backup/` before it is written,
and files are replaced atomically.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipes.files import make_folder, write_atomically, writing
from stages.teach.course import COURSE, Exercise, exercises_of_module, find_exercise
from stages.teach.merge import digest_functions, merge_work, reset_function
from stages.teach.originals import course_modules, module_path, plan_files, render_module
from stages.teach.record import (
    FOLDER,
    RECORD,
    Record,
    Written,
    describe_written,
    package_version,
    read_record,
    write_record,
)
from stages.teach.source import Level, is_solved
from stages.teach.syntax import parse_source
from stages.teach.translate import translate

BOM = b"\xef\xbb\xbf"
LEVELS = ("steps", "docstring")

ADDED = "added {path}"
ADDED_AGAIN = "written again: {path} was deleted or moved"
UPDATED = "updated {path}, which you had not changed"
MERGED = "updated {path}; kept your {functions}; the file as it was is {backup}"
MERGED_NONE = "updated {path}; the file as it was is {backup}"
KEPT_PAGE = "kept your {path}; ours has changed: delete it and start again to have ours"
NOT_PARSED = "left {path} as it is: {reason}; correct it, and start again"
SIGNATURE = "{exercise}: the signature is now {signature}; your function is kept, adapt it"
VANISHED = "{function} in {path} is no longer an exercise; yours is in {backup}"
VANISHED_FILE = "{path} has no exercise any more; it is left as it is"
UNREADABLE = "{path} cannot be read: {reason}"
NOT_TEXT = "not UTF-8, byte {position}; save it as UTF-8"
NOT_PYTHON = "line {line}: {message}"
FUNCTION_MISSING = "{path} has no function {function}; intro2llm exercises reset {folder} {exercise} adds it"
IS_FOLDER = "it is a folder"
MISSING = "{path} is missing; intro2llm exercises start {folder} writes it again"
RESET = "{exercise}: the body is taken out of {path}; the file as it was is {backup}"
RESET_ADDED = (
    "{exercise}: {function} was not in {path} and is added at its end; the file as it was is {backup}"
)
RESET_FILE = "{exercise}: {path} was missing and is written again"
RESET_PARSE = (
    "{path} does not parse outside of {function}, line {line}: {message}; correct it there, or move the file "
    "away and start again"
)


class Report(NamedTuple):
    """Result of `start`.

    Fields:
        new: the folder was empty.
        files: number of files of the edition.
        exercises: number of exercises.
        lines: changes of an existing edition, a sentence each.
    """

    new: bool
    files: int
    exercises: int
    lines: tuple[str, ...]


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
    """

    chapters: tuple[ChapterProgress, ...]
    next: Exercise | None
    problems: tuple[str, ...]


class _File(NamedTuple):
    """A learner's file, decoded.

    Fields:
        text: its lines end with "\\n".
        bom: it begins with a byte order mark.
        ending: of its lines.
    """

    text: str
    bom: bool
    ending: str


def start(folder: Path, lang: str | None = None, level: Level | None = None) -> Report:
    """Writes an edition into an empty or new folder, or brings an existing one up to date.

    In an existing edition, files that are missing are written, files that the learner did not change are
    replaced, and in others the learner's functions and additions are kept.

    Args:
        folder: the edition.
        lang: language of its texts; None keeps that of an existing edition, and is English in a new one.
        level: parts of the bodies that stay; None keeps it likewise, and is "steps" in a new one.

    Returns:
        What was written.

    Raises:
        NotADirectoryError: if `folder` is a file.
        FileExistsError: if it holds other things than an edition.
        ValueError: for a language without texts, or a damaged record.
        OSError: if a file cannot be written.
    """
    is_edition = _check_folder(folder)
    record = read_record(folder) if is_edition else Record(package_version(), "en", "steps", {}, {}, {})
    new_level: Level = level or ("docstring" if record.level == "docstring" else "steps")
    record = record._replace(version=package_version(), lang=lang or record.lang, level=new_level)
    files = plan_files(record.lang, new_level)
    if not is_edition:
        write_record(folder, record)  # first, so that an interrupted start can be repeated
    lines: list[str] = []
    written = dict(record.files)
    for path, text in files.items():
        said, is_ours = _write_file(folder, path, text, record)
        lines += said
        if is_ours:
            written[path] = describe_written(text)
    for path in record.files.keys() - files.keys():
        del written[path]
        lines.append(_say(VANISHED_FILE, record.lang, path=path))
    write_record(folder, record._replace(files=written))
    count = sum(len(chapter.exercises) for chapter in COURSE)
    return Report(not is_edition, len(files), count, () if not is_edition else tuple(lines))


def reset(folder: Path, name: str) -> str:
    """Takes the body of an exercise out again; the file is kept as a backup first.

    Args:
        folder: the edition.
        name: of the exercise.

    Returns:
        What was done, in a sentence.

    Raises:
        FileNotFoundError: if the folder is no edition.
        ValueError: for an unknown exercise, or a file that is not UTF-8 or does not parse elsewhere.
        OSError: if a file cannot be written.
    """
    record, exercise = read_record(folder), find_exercise(name)
    path = module_path(exercise.module)
    level: Level = "docstring" if record.level == "docstring" else "steps"
    new = render_module(exercise.module, record.lang, level)
    record = record._replace(passed={key: value for key, value in record.passed.items() if key != name})
    words = {"exercise": name, "path": path, "function": exercise.function}
    if not (folder / path).exists():
        _write(folder / path, new)
        write_record(folder, record._replace(files={**record.files, path: describe_written(new)}))
        return _say(RESET_FILE, record.lang, **words)
    file = _read(folder / path, path, record.lang)
    try:
        text = reset_function(new, file.text, exercise.function)
    except SyntaxError as error:
        raise ValueError(
            _say(RESET_PARSE, record.lang, **words, line=error.lineno or 1, message=error.msg)
        ) from None
    was_there = f"def {exercise.function}(" in file.text
    backup = _back_up(folder, path)
    _write(folder / path, text, file)
    write_record(folder, record)
    return _say(RESET if was_there else RESET_ADDED, record.lang, **words, backup=backup)


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
            texts[module] = _read_module(folder, module, record.lang)
        except ValueError as error:
            problems.append(str(error))
    digests = {module: digest_functions(text) for module, text in texts.items()}
    for exercise in _exercises():
        if exercise.function not in digests.get(exercise.module, {exercise.function: ""}):
            words = {"path": module_path(exercise.module), "function": exercise.function, "folder": folder}
            problems.append(_say(FUNCTION_MISSING, record.lang, **words, exercise=exercise.name))
    solved = {e.name for e in _exercises() if is_solved(texts.get(e.module, ""), e.function)}
    passed = {e.name for e in _exercises() if e.name in solved and _has_passed(record, e, digests[e.module])}
    chapters = []
    for chapter in COURSE:
        names = {exercise.name for exercise in chapter.exercises}
        minutes = sum(exercise.minutes for exercise in chapter.exercises if exercise.name not in solved)
        counts = (len(names & solved), len(names & passed), len(names), minutes)
        if names:
            chapters.append(ChapterProgress(chapter.number, chapter.title, *counts))
    unsolved = [exercise for exercise in _exercises() if exercise.name not in solved]
    unchecked = [exercise for exercise in _exercises() if exercise.name not in passed]
    return Progress(tuple(chapters), next(iter([*unsolved, *unchecked]), None), tuple(problems))


def read_answer(folder: Path, module: str, lang: str) -> str:
    """Reads a learner's file of a module; its lines end with "\\n".

    Raises:
        ValueError: if it is missing, cannot be read, or is not UTF-8; the message is a sentence.
    """
    path = module_path(module)
    if not (folder / path).exists():
        raise ValueError(_say(MISSING, lang, path=path, folder=folder))
    return _read(folder / path, path, lang).text


def _exercises() -> Iterator[Exercise]:
    """All exercises, in the order of the course."""
    for chapter in COURSE:
        yield from chapter.exercises


def _has_passed(record: Record, exercise: Exercise, digests: Mapping[str, str]) -> bool:
    """Tells if the function that passed the check is the one in the file."""
    return record.passed.get(exercise.name, "") == digests.get(exercise.function)


def _read_module(folder: Path, module: str, lang: str) -> str:
    """A learner's file that parses; a ValueError with a sentence if there is none."""
    text = read_answer(folder, module, lang)
    if mistake := _find_mistake(text, lang):
        raise ValueError(_say(UNREADABLE, lang, path=module_path(module), reason=mistake))
    return text


def _check_folder(folder: Path) -> bool:
    """Tells if a folder is an edition (True) or empty; hidden entries, such as .git, do not count."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder, which may be new")
    if (folder / RECORD).exists():
        return True
    visible = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    if visible:
        raise FileExistsError(
            f"{folder} is neither empty nor a student edition (it holds {visible[0]}); choose a new folder"
        )
    return False


def _write_file(folder: Path, path: str, text: str, record: Record) -> tuple[list[str], bool]:
    """Writes one file of an edition; returns what to say, and if the file now stems from `text`."""
    lang, before = record.lang, record.files.get(path)
    if not (folder / path).exists():
        _write(folder / path, text)
        return [_say(ADDED_AGAIN if before else ADDED, lang, path=path)], True
    if (folder / path).is_dir():
        return [_say(UNREADABLE, lang, path=path, reason=translate(IS_FOLDER, lang))], False
    data = (folder / path).read_bytes()
    if data == text.encode():
        return [], True
    if before and hashlib.sha256(data).hexdigest() == before.sha256:
        _write(folder / path, text)
        return [_say(UPDATED, lang, path=path)], True
    if before and describe_written(text).sha256 == before.sha256:
        return [], True  # only the learner changed it
    if not path.endswith(".py"):
        return [_say(KEPT_PAGE, lang, path=path)], False
    return _merge_file(folder, path, text, before or Written("", {}), lang)


def _merge_file(folder: Path, path: str, text: str, before: Written, lang: str) -> tuple[list[str], bool]:
    """Writes our new file with the learner's work in it; see `_write_file`."""
    exercises = exercises_of_module(path.removesuffix(".py").replace("/", "."))
    try:
        file = _read(folder / path, path, lang)
    except ValueError as error:
        return [str(error)], False
    if mistake := _find_mistake(file.text, lang):
        return [_say(NOT_PARSED, lang, path=path, reason=mistake)], False
    written = {exercise.function: before.functions.get(exercise.function, "") for exercise in exercises}
    merged = merge_work(text, file.text, written)
    backup = _back_up(folder, path)
    _write(folder / path, merged.text, file)
    kept = ", ".join(merged.kept)
    lines = [_say(MERGED if kept else MERGED_NONE, lang, path=path, functions=kept, backup=backup)]
    for exercise in exercises:
        if exercise.function in merged.signatures:
            signature = merged.signatures[exercise.function]
            lines.append(_say(SIGNATURE, lang, exercise=exercise.name, signature=signature))
    present = digest_functions(file.text)
    for function, digest in before.functions.items():
        if function not in written and present.get(function, digest) != digest:
            lines.append(_say(VANISHED, lang, function=function, path=path, backup=backup))
    return lines, True


def _find_mistake(text: str, lang: str) -> str:
    """Line and message of a text that does not parse, else ""."""
    try:
        parse_source(text)
    except SyntaxError as error:
        return _say(NOT_PYTHON, lang, line=error.lineno or 1, message=error.msg)
    return ""


def _read(file: Path, path: str, lang: str) -> _File:
    """Reads a learner's file; a ValueError with a sentence if that fails."""
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = _say(NOT_TEXT, lang, position=error.start)
        raise ValueError(_say(UNREADABLE, lang, path=path, reason=reason)) from None
    except OSError as error:
        raise ValueError(_say(UNREADABLE, lang, path=path, reason=error.strerror)) from None
    ending = "\r\n" if "\r\n" in text else "\n"
    return _File(text.replace("\r\n", "\n").replace("\r", "\n"), data.startswith(BOM), ending)


def _write(path: Path, text: str, like: _File | None = None) -> None:
    """Writes a file atomically, with the line endings and byte order mark of `like`."""
    data = text.encode()
    if like is not None:
        data = like.bom * BOM + text.replace("\n", like.ending).encode()
    with writing(path):
        make_folder(path.parent)
        write_atomically(path.resolve(), data)


def _back_up(folder: Path, path: str) -> str:
    """Copies a file to a new place in the backup folder, and returns that, relative to the edition."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 10_000):
        backup = f"{FOLDER}/backup/{stamp}-{number}/{path}"
        if not (folder / backup).exists():
            break
    with writing(folder / backup):
        make_folder((folder / backup).parent)
        write_atomically(folder / backup, (folder / path).read_bytes())
    return backup


def _say(text: str, lang: str, **fields: object) -> str:
    """Translates a sentence, and fills in its fields."""
    return translate(text, lang).format(**fields)
