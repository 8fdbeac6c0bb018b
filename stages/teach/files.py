"""Files of the course: where our modules and those of a learner are, and their text.

Nothing of them is imported, and this module imports little: the check's process reads files before it imports
any module of the course.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stages.teach import messages
from stages.teach.course import module_path
from stages.teach.messages import Sentence
from stages.teach.syntax import parse_source

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the packages: the clone, or where the wheel is installed."""

BOM = b"\xef\xbb\xbf"


class Answer(NamedTuple):
    """A learner's file, decoded.

    Fields:
        path: of the file; its functions are compiled with this name.
        text: its lines end with "\\n".
        bom: it begins with a byte order mark.
        ending: of its lines.
    """

    path: Path
    text: str
    bom: bool
    ending: str


def find_original(module: str) -> Path:
    """Returns the path of one of our modules."""
    return ROOT / module_path(module)


def find_answer(folder: Path, module: str) -> Path:
    """Returns the path of a module's file in a learner's folder."""
    return folder / module_path(module)


def read_original(module: str) -> str:
    """Reads our source of a module."""
    return find_original(module).read_text(encoding="utf-8")


def read_answer(folder: Path, module: str) -> Answer:
    """Reads a learner's file of a module, whatever its line endings and byte order mark.

    Args:
        folder: the edition.
        module: dotted name.

    Returns:
        The file, decoded.

    Raises:
        ValueError: if it is missing, cannot be read, or is not UTF-8; its argument is a `Sentence`.
    """
    path, shown = find_answer(folder, module), module_path(module)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        fields = {"path": shown, "folder": str(folder)}
        raise ValueError(Sentence(messages.NO_FILE, fields)) from None
    except UnicodeDecodeError as error:
        fields = {"path": shown, "position": str(error.start)}
        raise ValueError(Sentence(messages.NOT_TEXT, fields)) from None
    except OSError as error:
        known = {IsADirectoryError: messages.IS_FOLDER, PermissionError: messages.NO_PERMISSION}
        reason = Sentence(known.get(type(error), str(error.strerror)), {})
        raise ValueError(Sentence(messages.UNREADABLE, {"path": shown, "reason": reason})) from None
    ending = "\r\n" if "\r\n" in text else "\n"
    return Answer(path, text.replace("\r\n", "\n").replace("\r", "\n"), data.startswith(BOM), ending)


def read_parsed(folder: Path, module: str) -> Answer:
    """Reads a learner's file of a module, which parses.

    Args:
        folder, module: as in `read_answer`.

    Raises:
        ValueError: as `read_answer`, or if the file does not parse; its argument is a `Sentence`.
    """
    answer = read_answer(folder, module)
    try:
        parse_source(answer.text)
    except SyntaxError as error:
        fields = {"path": module_path(module), "line": error.lineno or 1, "error": error.msg}
        raise ValueError(Sentence(messages.SYNTAX, fields)) from None
    return answer
