"""Save and load tokenizers: the only file of this package that reads and writes files.

A tokenizer is one file, tokenizer.json, in Hugging Face's format, which `json_writer` and `json_reader` know.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from data_pipes.files import write_atomically
from data_pipes.tokenizer.json_reader import from_json
from data_pipes.tokenizer.json_writer import to_json
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.tokenizer.tiktoken_ranks import from_tiktoken

NAME = "tokenizer.json"
LEGACY_NAMES = ("vocab.json", "merges.txt", "tokenizer.model", "tekken.json", "vocab.txt", "spiece.model")
MAX_BYTES = 1 << 26  # 64 MiB; the largest tokenizers in use have half that size


def save(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> Path:
    """Writes a tokenizer as tokenizer.json, atomically.

    Args:
        tokenizer: to write.
        path: a folder (made if missing), or a file whose name ends in ".json".

    Returns:
        The path of the file.

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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text.encode())
    except OSError as error:
        raise type(error)(
            error.errno, f"save: cannot write the tokenizer ({error.strerror})", str(target)
        ) from None
    return target


def load(path: str | os.PathLike[str], *, any_pattern: bool = False, max_bytes: int = MAX_BYTES) -> Tokenizer:
    """Reads a tokenizer.json, ours or Hugging Face's.

    Args:
        path: the file, or the folder that holds tokenizer.json.
        any_pattern: as in `from_json`.
        max_bytes: size in bytes above which a file is refused without reading it.

    Returns:
        The Tokenizer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large, not UTF-8, damaged, or not understood; the message has the path.
    """
    file = _file(path)
    text = _read(file, max_bytes)
    try:
        return from_json(text, any_pattern=any_pattern)
    except ValueError as error:
        raise ValueError(f"load: {file}: {error}") from None


def load_tiktoken(
    path: str | os.PathLike[str],
    *,
    pattern: str,
    special_tokens: Mapping[str, int],
    max_bytes: int = MAX_BYTES,
) -> Tokenizer:
    """Reads a tiktoken file, which lacks the split pattern and the special tokens: pass both.

    Args:
        path: the file.
        pattern: as in `from_tiktoken`.
        special_tokens: token -> id, as in `from_tiktoken`.
        max_bytes: size in bytes above which a file is refused without reading it.

    Returns:
        The Tokenizer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is too large, not UTF-8, or not understood; the message has the path.
    """
    text = _read(Path(path), max_bytes)
    try:
        return from_tiktoken(text, pattern=pattern, special_tokens=special_tokens)
    except ValueError as error:
        raise ValueError(f"load_tiktoken: {path}: {error}") from None


def explain_legacy(folder: Path) -> str:
    """Returns an error message for a folder whose tokenizer has only legacy files; "" for any other folder.

    Such files lack the split pattern and the normalizer. transformers knows these from the model's type, and
    writes them to tokenizer.json.
    """
    names = [name for name in LEGACY_NAMES if (folder / name).is_file()]
    if not names or (folder / NAME).is_file():
        return ""
    return (
        f"{folder} has {' and '.join(names)}, but no {NAME}; write one with transformers: "
        f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )


def _read(file: Path, max_bytes: int) -> str:
    """Text of a file that exists, is not too large, and is UTF-8."""
    if not file.is_file():
        raise FileNotFoundError(
            explain_legacy(file.parent) or f"load: there is no {file}; save(tokenizer, path) writes one"
        )
    if (size := file.stat().st_size) > max_bytes:
        raise ValueError(
            f"load: {file} has {size} bytes, more than {max_bytes}; if you trust it, pass a larger max_bytes"
        )
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"load: {file} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _file(path: str | os.PathLike[str]) -> Path:
    """A folder or a file -> the file."""
    path = Path(path)
    return path if path.suffix == ".json" and not path.is_dir() else path / NAME
