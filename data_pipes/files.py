"""Write files whole or not at all, wait until they are on the disk, and name the file in errors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes an object; a crash leaves the old file or the new one.

    Raises:
        OSError: if the disk refuses; the message has the path.
    """
    unfinished = path.with_name(f".{path.name}.partial")
    with writing(path, "make room there, or choose another folder"):
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(fields, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object; a byte-order mark before it is allowed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a JSON object in UTF-8; the message has the path, and the line if that can be
            told.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, or too deep
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(found).__name__}")
    return found


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, each on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        os.mkdir(folder)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk (POSIX; elsewhere a folder cannot be opened)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def writing(path: Path, then: str = "make room there, and run the same command again") -> Iterator[None]:
    """Gives errors of the body the file's name.

    Args:
        path: what the body writes.
        then: what a person can do.

    Raises:
        OSError: with the same number, the path and `then`.

    Example:
        >>> with writing(Path("a.txt")):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        OSError: [Errno 28] cannot write a.txt: No space left on device; make room there, and run the same
            command again
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}; {then}") from error
