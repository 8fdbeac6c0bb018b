"""Write files and folders atomically, sync them to the disk, and name the file in errors.

All files that are saved are written by this module: `write_atomically` replaces a small file,
`publish_folder` renames a complete folder to its final name, `sync_file` and `sync_folder` call fsync.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

BLOCK = 1 << 22
"""Bytes per read (4 MiB)."""


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically: a crash leaves the old file or the new one.

    Raises:
        OSError: if the file cannot be written; the message has the path.
    """
    with writing(path, "make room there, or choose another folder"):
        write_atomically(path, (json.dumps(fields, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; a byte order mark is skipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a JSON object in UTF-8; the message has the path, and the line of a syntax
            error.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, or too deep
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(fields).__name__}")
    return fields


def read_blocks(path: Path) -> Iterator[bytes]:
    """Reads a file of any size in blocks of 4 MiB."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a crash leaves the old one or the new one, never a part.

    The data is written to a temporary hidden file in the same folder, synced, and renamed over the old file.

    Raises:
        OSError: if the file cannot be written; the old one stays, and the temporary one is removed.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            sync_file(file)
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_new(path: Path, data: bytes) -> None:
    """Writes a file that must not exist yet, and waits until it is on the disk.

    Raises:
        OSError: if it exists, or cannot be written.
    """
    with path.open("xb") as file:
        file.write(data)
        sync_file(file)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, and syncs each new entry to the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        os.mkdir(folder)
        sync_folder(folder.parent)


def publish_folder(unfinished: Path, final: Path, *, aside: Path | None = None) -> None:
    """Renames a complete folder to its final name.

    Args:
        unfinished: the complete folder, in the same parent as `final`; its files are already synced
            (`sync_contents`).
        final: its new path.
        aside: path to which an existing `final` is renamed first; None if `final` must not exist.

    Raises:
        OSError: if a rename fails, or `final` exists and `aside` is None.
    """
    if aside is not None and final.exists():
        os.rename(final, aside)
    os.rename(unfinished, final)
    sync_folder(final.parent)


def sync_file(file: IO[Any]) -> None:
    """Waits until an open file's bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until a folder's entries (new or renamed files) are on the disk; does nothing outside POSIX."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_contents(folder: Path) -> None:
    """Waits until every file in a folder and its folders, and then their entries, are on the disk."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_contents(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


@contextmanager
def writing(path: Path, then: str = "make room there, and run the same command again") -> Iterator[None]:
    """Adds the file's name and a fix to the system errors of a `with` block.

    Args:
        path: the file or folder that the block writes.
        then: the fix, which ends the error message.

    Raises:
        OSError: with the same errno; the message has the path and `then`.

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
