"""The record of an edition, `.intro2llm/edition.json`: how each file was written, and what passed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes.files import make_folder, read_json, write_json
from stages.teach.course import find_exercise, module_path
from stages.teach.merge import digest_functions

FOLDER = ".intro2llm"
RECORD = f"{FOLDER}/edition.json"


class Written(NamedTuple):
    """A file as it was written by `start` or `reset`.

    Fields:
        sha256: of its bytes.
        functions: name of each function at its top -> digest of its lines (`merge.digest_functions`).
    """

    sha256: str
    functions: Mapping[str, str]


class Record(NamedTuple):
    """State of an edition: its files as written, and checks.

    Fields:
        version: of the package that wrote it last.
        lang: language of its texts.
        level: parts of the bodies that stayed.
        files: path in the folder -> as it was written.
        passed: exercise -> digest of the function that passed the check.
    """

    version: str
    lang: str
    level: str
    files: Mapping[str, Written]
    passed: Mapping[str, str]


def package_version() -> str:
    """Returns the version of the installed package; "0" where it is used without being installed."""
    try:
        return version("intro2llm")
    except PackageNotFoundError:
        return "0"


def describe_written(text: str) -> Written:
    """Describes a file that is written with this text."""
    return Written(hashlib.sha256(text.encode()).hexdigest(), digest_functions(text))


def read_record(folder: Path) -> Record:
    """Reads the record of an edition.

    Raises:
        FileNotFoundError: if the folder is no edition.
        ValueError: if the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        fix = f"intro2llm exercises start {folder} makes one in an empty or new folder"
        raise FileNotFoundError(f"{folder} is not a student edition ({RECORD} is missing); {fix}")
    fields = read_json(path)
    try:
        return _build(fields)
    except (KeyError, TypeError, AttributeError, ValueError):
        fix = "restore it, or start an edition in a new folder and copy your files there"
        raise ValueError(f"{path}: not the record of an edition; {fix}") from None


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of an edition atomically.

    Raises:
        OSError: if it cannot be written.
    """
    make_folder(folder / FOLDER)
    files = {path: written._asdict() for path, written in record.files.items()}
    write_json(folder / RECORD, {**record._asdict(), "files": files})


def record_result(folder: Path, name: str, passed: bool) -> None:
    """Keeps the result of a check. A function that is changed afterwards no longer counts as checked.

    Args:
        folder: the edition.
        name: of the exercise.
        passed: the result.
    """
    record, exercise = read_record(folder), find_exercise(name)
    results = {key: digest for key, digest in record.passed.items() if key != name}
    text = (folder / module_path(exercise.module)).read_text(encoding="utf-8-sig")
    digest = digest_functions(text).get(exercise.function)
    if passed and digest:
        results[name] = digest
    if results != record.passed:
        write_record(folder, record._replace(passed=results))


def _build(fields: Mapping[str, Any]) -> Record:
    """The record in a JSON object; an error of any kind if it is none."""
    files = {
        str(path): Written(str(written["sha256"]), {str(k): str(v) for k, v in written["functions"].items()})
        for path, written in fields["files"].items()
    }
    passed = {str(name): str(digest) for name, digest in fields["passed"].items()}
    return Record(str(fields["version"]), str(fields["lang"]), str(fields["level"]), files, passed)
