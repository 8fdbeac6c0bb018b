"""Files of a learner: read whatever their line endings and byte order mark, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data_pipes.files import make_folder, write_atomically, writing
from stages.teach.course import module_path
from stages.teach.syntax import parse_source
from stages.teach.translate import translate

BOM = b"\xef\xbb\xbf"

UNREADABLE = "{path} cannot be read: {reason}"
NOT_TEXT = "not UTF-8, byte {position}; save it as UTF-8"
NOT_PYTHON = "line {line}: {message}"
MISSING = "{path} is missing; intro2llm exercises start {folder} writes it again"


class Answer(NamedTuple):
    """A learner's file, decoded.

    Fields:
        text: its lines end with "\\n".
        bom: it begins with a byte order mark.
        ending: of its lines.
    """

    text: str
    bom: bool
    ending: str


def read_answer(folder: Path, module: str, lang: str) -> str:
    """Reads a learner's file of a module; its lines end with "\\n".

    Raises:
        ValueError: if it is missing, cannot be read, or is not UTF-8; the message is a sentence.
    """
    path = module_path(module)
    if not (folder / path).exists():
        raise ValueError(say(MISSING, lang, path=path, folder=folder))
    return read_file(folder / path, path, lang).text


def find_mistake(text: str, lang: str) -> str:
    """Describes line and message of a text that does not parse; "" for one that does."""
    try:
        parse_source(text)
    except SyntaxError as error:
        return say(NOT_PYTHON, lang, line=error.lineno or 1, message=error.msg)
    return ""


def read_file(file: Path, path: str, lang: str) -> Answer:
    """Reads a learner's file.

    Args:
        file: where it is.
        path: its path in the edition, for the message.
        lang: language of the message.

    Returns:
        The file, decoded.

    Raises:
        ValueError: if it cannot be read or is not UTF-8; the message is a sentence.
    """
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = say(NOT_TEXT, lang, position=error.start)
        raise ValueError(say(UNREADABLE, lang, path=path, reason=reason)) from None
    except OSError as error:
        raise ValueError(say(UNREADABLE, lang, path=path, reason=error.strerror)) from None
    ending = "\r\n" if "\r\n" in text else "\n"
    return Answer(text.replace("\r\n", "\n").replace("\r", "\n"), data.startswith(BOM), ending)


def write_file(path: Path, text: str, like: Answer | None = None) -> None:
    """Writes a file atomically, with the line endings and byte order mark of `like`."""
    data = text.encode()
    if like is not None:
        data = like.bom * BOM + text.replace("\n", like.ending).encode()
    with writing(path):
        make_folder(path.parent)
        write_atomically(path.resolve(), data)


def say(text: str, lang: str, **fields: object) -> str:
    """Translates a sentence, and fills in its fields."""
    return translate(text, lang).format(**fields)
