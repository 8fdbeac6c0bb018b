"""Read text files as documents; list, open and decompress files of all kinds."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from data_pipes.types import BadRow, Document, OnBad, stop

Location = str | os.PathLike[str]

PIECE = 1 << 26
"""Largest piece of a document, characters (64 Mi): longer documents are cut, so that memory is bounded."""

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
"""Errors of a compressed file that is truncated or damaged, under `name_errors`."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files."""

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", *(f".tar{end}" for end in COMPRESSED))
"""Suffixes of archives, which are not read."""

ARCHIVE_REASON = "an archive is not read; unpack it, and remove it"
"""Reason that is reported for an archive."""

HOW_TO_CONVERT = "convert it first: iconv -f LATIN1 -t UTF-8 old > new (-f UTF-16 if it comes from Windows)"
"""Advice for a file in another encoding."""

_BLOCK = 1 << 20


def files(path: Location) -> list[Path]:
    """Lists the file at `path`, or all files of a folder and its subfolders, sorted.

    Symbolic links are followed. Names that begin with ".", and folders that begin with "__", are left out
    (.git, .cache, __pycache__).

    Raises:
        FileNotFoundError: if the path does not exist, the folder has no file, or a link in it leads nowhere.
        ValueError: for a pipe or a device.
    """
    top = Path(path)
    if top.is_file():
        return [top]
    if top.exists() and not top.is_dir():
        raise ValueError(
            f"source: {top} must be a regular file or a folder, as it is read several times; save its "
            "contents as a file first"
        )
    if not top.is_dir():
        raise FileNotFoundError(f"source: there is no file or folder {top}; check the path")
    paths = list(_walk(top, frozenset()))
    if not paths:
        raise FileNotFoundError(
            f"source: the folder {top} has no file; put text, .jsonl or .parquet files in it"
        )
    return sorted(paths, key=lambda p: p.relative_to(top).as_posix())


def text_documents(
    path: Location,
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    on_bad: OnBad = stop,
) -> Iterator[Document]:
    """Streams one text file, as one document or cut at a separator.

    Args:
        path: a text file; one with a suffix in COMPRESSED is decompressed.
        separator: string between documents, which is removed; None makes the file one document.
        encoding: encoding of the file; a byte order mark is dropped.
        on_bad: called for an archive, and for a file that cannot be decoded or is binary; the rest of the
            file is skipped.

    Returns:
        Documents named "file", or "file#0", "file#1", ... with a separator. Line ends are not changed.
        Documents of only white space are left out. A document longer than 64 Mi characters is cut at line
        ends into several.

    Raises:
        ValueError: on a bad file, if on_bad is `stop`; the message has the byte offset of the first bad byte.
        OSError: if the file cannot be opened.
    """
    name, buffer, count = str(path), "", 0
    if is_archive(path):
        on_bad(BadRow(name, ARCHIVE_REASON))
        return
    try:
        for block in _decode_blocks(Path(path), encoding):
            buffer += block
            parts = buffer.split(separator) if separator else [buffer]
            buffer = parts.pop()
            if len(buffer) > PIECE:
                end = buffer.rfind("\n") + 1 or len(buffer)
                parts, buffer = [*parts, buffer[:end]], buffer[end:]
            for text in filter(str.strip, parts):
                yield Document(text, f"{name}#{count}")
                count += 1
    except _UnreadableError as error:
        on_bad(BadRow(name, str(error)))
        return
    if buffer.strip() or not count:
        yield Document(buffer, f"{name}#{count}" if separator or count else name)


def is_archive(path: Location) -> bool:
    """Returns True if a name has the suffix of an archive.

    Example:
        >>> is_archive("rows.TAR.GZ"), is_archive("rows.jsonl.gz"), is_archive("dummy_data.zip")
        (True, False, True)
    """
    return str(path).lower().endswith(ARCHIVES)


def open_binary(path: Location) -> BinaryIO:
    """Opens a file for reading bytes; .gz, .bz2, .xz and .zst (COMPRESSED) are decompressed."""
    end = Path(str(path).lower()).suffix
    if end == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(open(path, "rb"), "zstd"))
    openers: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(BinaryIO, openers.get(end, open)(path, "rb"))


@contextmanager
def name_errors(path: Location) -> Iterator[None]:
    """Adds the file's name to system errors without one, such as those of a failed read.

    Raises:
        OSError: the same error, with the name.
        EOFError: for a damaged compressed file, whose OSError has no errno.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None and error.filename is None:
            raise EOFError(str(error)) from error
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yields the files of a folder and its subfolders; a link to a folder in `above` is not followed."""
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path
        elif path.is_dir():
            if not path.name.startswith("__"):
                yield from _walk(path, above | {real})
        else:
            refuse_broken_links([path])


def refuse_broken_links(paths: Iterable[Path]) -> None:
    """Refuse links whose file is gone, which a list of the files of a folder would leave out.

    Args:
        paths: of files, folders and links.

    Raises:
        FileNotFoundError: naming the first one.
    """
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError(
                f"source: {path} is a link to {os.readlink(path)}, which is not there; remove the link, or "
                "put the file back"
            )


class _UnreadableError(ValueError):
    """The rest of a text file cannot be read."""


def _decode_blocks(path: Location, encoding: str) -> Iterator[str]:
    """Yields decoded text in blocks; raises _UnreadableError with the offset of the first bad byte."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, started = 0, False
    with name_errors(path), open_binary(path) as file:
        while True:
            pending = len(decoder.getstate()[0])
            try:
                with name_errors(path):
                    block = file.read(_BLOCK)
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                bad_offset = offset - pending + error.start
                byte = f"byte 0x{error.object[error.start]:02x} at offset {bad_offset}"
                raise _UnreadableError(
                    f"{byte} is not {encoding}; {HOW_TO_CONVERT}, or pass encoding="
                ) from error
            except DAMAGED as error:
                raise _UnreadableError(f"the compressed file is damaged ({error}); copy it again") from error
            if "\0" in text:
                before, mark = text[: text.index("\0")].encode(encoding), "".encode(encoding)
                zero = offset - pending + len(before) - (len(mark) if offset else 0)
                raise _UnreadableError(
                    f"a binary file, with a zero byte at offset {zero}; take it out of the corpus"
                )
            yield text if started else text.removeprefix("\ufeff")
            started = started or bool(text)
            offset += len(block)
            if not block:
                return
