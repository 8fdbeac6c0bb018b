"""Tokenizers on disk: the only file of this package that touches the world.

A tokenizer is one file, tokenizer.json, in Hugging Face's format; `json_writer` and `json_reader` hold the format.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from data_pipes.tokenizer.json_reader import from_json
from data_pipes.tokenizer.json_writer import to_json
from data_pipes.tokenizer.spec import Tokenizer

NAME = "tokenizer.json"
MAX_BYTES = 1 << 26  # 64 MiB; the largest tokenizers in use have half of that


def save(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> Path:
    """Writes a tokenizer as tokenizer.json, whole or not at all.

    Args:
        tokenizer: what to write.
        path: a folder (made if missing), or a file whose name ends in ".json".

    Returns:
        The path of the file.

    Steps:
        1. Write a new file beside the target, and wait until the disk has it.
        2. Rename it over the target, so that a crash leaves the old file or the new one.

    Raises:
        OSError: if the folder cannot be written or the disk is full; an older file stays as it was.

    Example:
        >>> import tempfile
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["low lower"], 262)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(tokenizer, folder).name, load(folder).spec == tokenizer.spec
        ('tokenizer.json', True)
    """
    target = _file(path)
    text = to_json(tokenizer)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # 1. A new file.
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # 2. In the place of the old one.
        os.replace(partial, target)
    except OSError as error:
        raise type(error)(error.errno, f"save: cannot write the tokenizer ({error.strerror})", str(target)) from None
    finally:
        with suppress(OSError):
            partial.unlink()
    return target


def load(path: str | os.PathLike[str], *, any_pattern: bool = False, max_bytes: int = MAX_BYTES) -> Tokenizer:
    """Reads a tokenizer.json, ours or Hugging Face's.

    Args:
        path: the file, or the folder that holds tokenizer.json.
        any_pattern: as in `from_json`.
        max_bytes: a larger file is refused unread, bytes.

    Returns:
        The Tokenizer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large, not UTF-8, damaged, or holds what is not understood; the message has the path.
    """
    file = _file(path)
    if not file.is_file():
        raise FileNotFoundError(f"load: there is no {file}; save(tokenizer, path) writes one")
    if (size := file.stat().st_size) > max_bytes:
        raise ValueError(f"load: {file} has {size} bytes, more than {max_bytes}; pass max_bytes if it is to be trusted")
    try:
        return from_json(file.read_bytes().decode(), any_pattern=any_pattern)
    except UnicodeDecodeError as error:
        raise ValueError(f"load: {file} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise ValueError(f"load: {file}: {error}") from None


def _file(path: str | os.PathLike[str]) -> Path:
    """A folder or a file -> the file."""
    path = Path(path)
    return path if path.suffix == ".json" and not path.is_dir() else path / NAME
