"""The record of an edition, `.intro2llm/edition.json`: how each file was written, and what passed."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes.files import make_folder, read_json, write_json
from stages.teach import messages
from stages.teach.additions import find_additions
from stages.teach.course import Exercise
from stages.teach.files import read_answer, read_original
from stages.teach.merge import digest_functions
from stages.teach.messages import Sentence
from stages.teach.syntax import bound_names, find_function, parse_source

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
        raise FileNotFoundError(Sentence(messages.NO_EDITION, {"folder": folder, "record": RECORD}))
    try:
        fields = read_json(path)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(Sentence(messages.DAMAGED_RECORD, {"path": path, "reason": reason})) from None
    try:
        return _build(fields)
    except (KeyError, TypeError, AttributeError, ValueError):
        damage = {"path": path, "reason": Sentence(messages.NO_RECORD, {})}
        raise ValueError(Sentence(messages.DAMAGED_RECORD, damage)) from None


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of an edition atomically.

    Raises:
        OSError: if it cannot be written.
    """
    make_folder(folder / FOLDER)
    files = {path: written._asdict() for path, written in record.files.items()}
    write_json(folder / RECORD, {**record._asdict(), "files": files})


def digest_answer(folder: Path, exercise: Exercise) -> str:
    """Digests a learner's function; returns "" if it is not there or its file cannot be read.

    Args:
        folder: the edition.
        exercise: of the course.
    """
    try:
        text = read_answer(folder, exercise.module).text
    except ValueError:
        return ""
    return digest_work(read_original(exercise.module), text, exercise.function)


def digest_work(original: str, text: str, function: str) -> str:
    """Digests a function with the names that the learner added to the file and that it reaches.

    Args:
        original: our source of the module.
        text: the learner's.
        function: name of the function.

    Returns:
        Its own digest if it reaches none; "" if it is not in the text, or that does not parse.
    """
    digest = digest_functions(text).get(function, "")
    if not digest:
        return ""
    theirs = parse_source(text)
    added = [each.statement for each in find_additions(parse_source(original), theirs, [function])]
    names, reached = _list_names(find_function(theirs, function)), list[ast.stmt]()
    while new := [each for each in added if each not in reached and names.intersection(_list_targets(each))]:
        reached += new
        names = names.union(*map(_list_names, new))
    parts = [ast.unparse(each) for each in added if each in reached]
    return hashlib.sha256("\n".join([digest, *parts]).encode()).hexdigest() if parts else digest


def record_result(folder: Path, name: str, digest: str) -> None:
    """Keeps the result of a check. A function that is changed afterwards, or a helper of it, is not checked.

    Args:
        folder: the edition.
        name: of the exercise.
        digest: of the function that passed (`digest_answer`); "" for one that did not.

    Raises:
        OSError: if the record cannot be written.
    """
    record = read_record(folder)
    results = {key: value for key, value in record.passed.items() if key != name}
    if digest:
        results[name] = digest
    if results != record.passed:
        write_record(folder, record._replace(passed=results))


def _list_names(node: ast.AST | None) -> set[str]:
    """The names in a statement."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} if node is not None else set()


def _list_targets(statement: ast.stmt) -> set[str]:
    """The names that a statement binds, or on which it works if it binds none."""
    return set(bound_names(statement)) or _list_names(statement)


def _build(fields: Mapping[str, Any]) -> Record:
    """The record in a JSON object; an error of any kind if it is none."""
    files = {
        str(path): Written(str(written["sha256"]), {str(k): str(v) for k, v in written["functions"].items()})
        for path, written in fields["files"].items()
    }
    passed = {str(name): str(digest) for name, digest in fields["passed"].items()}
    return Record(str(fields["version"]), str(fields["lang"]), str(fields["level"]), files, passed)
