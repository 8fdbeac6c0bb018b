"""The student edition on disk: start or upgrade a folder, reset an exercise.

Nothing that a learner wrote is lost: a changed file is copied to `.intro2llm/backup/` before it is written,
and files are replaced atomically.
"""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from data_pipes.files import make_folder, write_atomically, writing
from stages.teach import messages
from stages.teach.course import COURSE, exercises_of_module, find_exercise, module_path
from stages.teach.files import BOM, Answer, read_answer, read_parsed
from stages.teach.hint_record import RESET as RESTART
from stages.teach.hint_record import read_hints, record_hint
from stages.teach.merge import digest_functions, merge_work, reset_function
from stages.teach.messages import Sentence
from stages.teach.originals import plan_files, render_module
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
from stages.teach.source import Level
from stages.teach.translate import say

ADDED = "added {path}"
ADDED_AGAIN = "written again: {path} was deleted or moved"
UPDATED = "updated {path}, which you had not changed"
MERGED = "updated {path}; kept your {functions}; the file as it was is {backup}"
MERGED_NONE = "updated {path}; the file as it was is {backup}"
KEPT_PAGE = "kept your {path}; ours has changed: delete it and start again to have ours"
LEFT = "{problem}; the file is left as it is: correct it, and start again"
SIGNATURE = "{exercise}: the signature is now {signature}; your function is kept, adapt it"
VANISHED = "{function} in {path} is no longer an exercise; yours is in {backup}"
VANISHED_FILE = "{path} has no exercise any more; it is left as it is"
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
    record = read_record(folder) if is_edition else Record(package_version(), "en", "steps", {}, {})
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
        lines.append(say(VANISHED_FILE, record.lang, path=path))
    write_record(folder, record._replace(files=written))
    count = sum(len(chapter.exercises) for chapter in COURSE)
    return Report(not is_edition, len(files), count, () if not is_edition else tuple(lines))


def reset(folder: Path, name: str) -> str:
    """Takes the body of an exercise out again; the file is kept as a backup first.

    The hints on the exercise start again with the first, and those that were taken stay counted.

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
        write_file(folder / path, new)
        write_record(folder, record._replace(files={**record.files, path: describe_written(new)}))
        _restart_hints(folder, name)
        return say(RESET_FILE, record.lang, **words)
    file = read_answer(folder, exercise.module)
    try:
        text = reset_function(new, file.text, exercise.function)
    except SyntaxError as error:
        fields = {**words, "line": error.lineno or 1, "message": error.msg}
        raise ValueError(Sentence(RESET_PARSE, fields)) from None
    was_there = re.search(rf"^(?:async\s+)?def\s+{exercise.function}\b", file.text, re.MULTILINE)
    backup = _back_up(folder, path)
    write_file(folder / path, text, file)
    write_record(folder, record)
    _restart_hints(folder, name)
    return say(RESET if was_there else RESET_ADDED, record.lang, **words, backup=backup)


def _check_folder(folder: Path) -> bool:
    """Tells if a folder is an edition (True) or empty; hidden entries, such as .git, do not count."""
    for each in (folder, *folder.parents):
        if each.exists() and not each.is_dir():
            raise NotADirectoryError(Sentence(messages.NOT_FOLDER, {"folder": each}))
    if (folder / RECORD).exists():
        return True
    visible = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    if visible:
        raise FileExistsError(Sentence(messages.NOT_EMPTY, {"folder": folder, "name": visible[0]}))
    return False


def _write_file(folder: Path, path: str, text: str, record: Record) -> tuple[list[str], bool]:
    """Writes one file of an edition; returns what to say, and if the file now stems from `text`."""
    lang, before = record.lang, record.files.get(path)
    if not (folder / path).exists():
        write_file(folder / path, text)
        return [say(ADDED_AGAIN if before else ADDED, lang, path=path)], True
    if (folder / path).is_dir():
        return [say(messages.UNREADABLE, lang, path=path, reason=Sentence(messages.IS_FOLDER, {}))], False
    data = (folder / path).read_bytes()
    if data == text.encode():
        return [], True
    if before and hashlib.sha256(data).hexdigest() == before.sha256:
        write_file(folder / path, text)
        return [say(UPDATED, lang, path=path)], True
    if before and describe_written(text).sha256 == before.sha256:
        return [], True  # only the learner changed it
    if not path.endswith(".py"):
        return [say(KEPT_PAGE, lang, path=path)], False
    return _merge_file(folder, path, text, before or Written("", {}), lang)


def _merge_file(folder: Path, path: str, text: str, before: Written, lang: str) -> tuple[list[str], bool]:
    """Writes our new file with the learner's work in it; see `_write_file`."""
    module = path.removesuffix(".py").replace("/", ".")
    exercises = exercises_of_module(module)
    try:
        file = read_parsed(folder, module)
    except ValueError as error:
        return [say(LEFT, lang, problem=error.args[0])], False
    written = {exercise.function: before.functions.get(exercise.function, "") for exercise in exercises}
    merged = merge_work(text, file.text, written)
    backup = _back_up(folder, path)
    write_file(folder / path, merged.text, file)
    kept = ", ".join(merged.kept)
    lines = [say(MERGED if kept else MERGED_NONE, lang, path=path, functions=kept, backup=backup)]
    for exercise in exercises:
        if exercise.function in merged.signatures:
            signature = merged.signatures[exercise.function]
            lines.append(say(SIGNATURE, lang, exercise=exercise.name, signature=signature))
    present = digest_functions(file.text)
    for function, digest in before.functions.items():
        if function not in written and present.get(function, digest) != digest:
            lines.append(say(VANISHED, lang, function=function, path=path, backup=backup))
    return lines, True


def _restart_hints(folder: Path, name: str) -> None:
    """Lets the hints on an exercise start again; the next hint tells a damaged record."""
    with suppress(ValueError):
        if read_hints(folder).get(name):
            record_hint(folder, name, RESTART, 0)


def write_file(path: Path, text: str, like: Answer | None = None) -> None:
    """Writes a file atomically, with the line endings and byte order mark of `like`.

    Raises:
        OSError: if it cannot be written.
    """
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
