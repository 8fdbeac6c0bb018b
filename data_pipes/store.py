"""Write and memory-map token stores: corpora on disk, which may be larger than memory.

A stream of documents cannot be indexed, so it is written to a store first, from which a pipe is built. A
store is a folder:

    tokens.bin      the ids one after another, little-endian, uint16 if the vocabulary allows, else uint32
    documents.bin   where each document ends (exclusive), little-endian int64
    manifest.json   counts, sha256 of both files, vocabulary size, tokenizer, a digest; written last

It is memory-mapped: opening takes the same time for a megabyte and a terabyte, and reading any row is O(1).
The folder gets its final name only when it is complete and on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipes.digest import hash_blocks, hash_json
from data_pipes.files import publish_folder, read_blocks, sync_file, sync_folder, write_new
from data_pipes.tokens import (
    FILES,
    FORMAT,
    TokenStore,
    checked_ids,
    empty_corpus_message,
    id_dtype,
    manifest_of,
)

Location = str | os.PathLike[str]

_BLOCK = 1 << 22


def write_store(
    path: Location, documents: Iterable[Any], *, vocab_size: int, tokenizer: str = ""
) -> TokenStore:
    """Streams documents of ids into a store on disk, atomically, and opens it.

    A run that is killed, or a disk that fills up, must not leave a part of a corpus under its final name.

    Args:
        path: the folder to make; its parents are made too.
        documents: token ids of each document, [n] integers, read once; empty documents are skipped.
        vocab_size: upper limit of the ids (exclusive); up to 65,536 an id takes two bytes, else four.
        tokenizer: fingerprint of the tokenizer, written to the manifest.

    Returns:
        The memory-mapped TokenStore. It equals that of `memory_store` for the same documents, digest
        included.

    Steps:
        1. Make a hidden folder in the same parent, locked by this process. One that a killed process left is
           removed.
        2. Write and hash tokens and ends; fsync both.
        3. Write the manifest, fsync it and the folder.
        4. Rename the folder, fsync its parent. On any error before that, remove the hidden folder.

    Edge cases: a killed process leaves the hidden folder `.NAME.partial`, which the next writer of NAME
    removes.

    Raises:
        FileExistsError: if `path` exists (nothing is overwritten), or another process is writing it now.
        ValueError: if there is no token, or an id is outside [0, vocab_size).
        OSError: if the folder cannot be made or the disk is full; no part of the store stays there.
    """
    target = Path(path).absolute()
    if target.exists():
        raise FileExistsError(
            f"write_store: {target} exists already; open it with open_store, or remove it first"
        )
    # 1. Hidden folder.
    with _partial(target) as (folder, file):
        # 2. Tokens and ends.
        counted = _write_arrays(folder, file, checked_ids(documents, vocab_size))
        # 3. Manifest.
        manifest = manifest_of(vocab_size, tokenizer, *counted)
        write_new(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
        sync_folder(folder)
        # 4. Final name.
        publish_folder(folder, target)
    return open_store(target, verify=False)


def open_store(path: Location, *, verify: bool = True) -> TokenStore:
    """Memory-maps a store from disk.

    Args:
        path: the store's folder.
        verify: read both files once and compare their sha256 (about a second per gigabyte). False checks only
            file sizes and the manifest's own digest, which takes no time but misses a flipped bit.

    Returns:
        The TokenStore; tokens are read from disk when they are used.

    Raises:
        FileNotFoundError: if there is no store at the path, or one of its files is missing.
        ValueError: if a file is damaged; the message has its name and the damage.
    """
    folder = Path(path).absolute()
    manifest = _read_manifest(folder / "manifest.json")
    dtypes = (id_dtype(manifest["vocab_size"]), np.dtype("<i8"))
    arrays = []
    for name, dtype, count in zip(FILES, dtypes, (manifest["tokens"], manifest["documents"]), strict=True):
        _check_file(folder / name, count * dtype.itemsize, manifest["sha256"][name] if verify else None)
        arrays.append(np.memmap(folder / name, dtype, "r", shape=(count,)).view(np.ndarray))
    tokens, ends = arrays
    if ends[-1] != len(tokens):
        raise ValueError(
            _damaged(folder / "documents.bin", "the last document does not end where the tokens end")
        )
    return TokenStore(
        tokens=tokens,
        ends=ends,
        vocab_size=manifest["vocab_size"],
        tokenizer=manifest["tokenizer"],
        digest=manifest["digest"],
        path=str(folder),
        reopen=partial(_reopen, str(folder), manifest["digest"]),
    )


def _reopen(path: str, digest: str) -> TokenStore:
    """Opens the store of an unpickled TokenStore; refuses another corpus at its path."""
    store = open_store(path, verify=False)
    if store.digest != digest:
        raise ValueError(
            f"open_store: {path} has another corpus than when the pipe was pickled; build the pipe again"
        )
    return store


def _write_arrays(
    folder: Path, file: BinaryIO, documents: Iterable[np.ndarray]
) -> tuple[int, int, list[Any]]:
    """Streams ids and ends to disk; returns (number of tokens, number of documents, the two hashes)."""
    hashes = [hashlib.sha256(), hashlib.sha256()]
    tokens = count = 0
    with open(folder / "documents.bin", "xb", buffering=_BLOCK) as ends:
        for ids in documents:
            if len(ids):
                tokens, count = tokens + len(ids), count + 1
                arrays = (ids, np.array([tokens], "<i8"))
                for out, digest, array in zip((file, ends), hashes, arrays, strict=True):
                    out.write(array.data)
                    digest.update(array.data)
        sync_file(ends)
    if not tokens:
        raise ValueError(empty_corpus_message("write_store"))
    sync_file(file)
    return tokens, count, hashes


@contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Makes a hidden folder for `target` and its locked tokens.bin; removes the folder on any error."""
    folder = target.parent / f".{target.name}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        folder.mkdir()
    except OSError as error:
        message = f"write_store: cannot make {target} ({error.strerror}); pass a folder that can be written"
        raise type(error)(error.errno, message) from error
    try:
        with open(folder / "tokens.bin", "xb", buffering=_BLOCK) as file:
            _lock(file)
            yield folder, file
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(target.parent).free
            raise OSError(
                error.errno,
                f"write_store: no room for {target} ({error.strerror}, {free} bytes free); the partial "
                "store was removed; make room, or use another disk",
            ) from error
        raise


def _remove_stale(folder: Path) -> None:
    """Removes the folder of a killed writer; raises if a running writer holds its lock."""
    if (tokens := folder / "tokens.bin").exists():
        with open(tokens, "rb") as file:
            _lock(file)
    if folder.exists():
        shutil.rmtree(folder)


def _lock(file: BinaryIO) -> None:
    """Locks the file for this process until it is closed (where the system has flock)."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileExistsError(error.errno, f"another process is writing {file.name} now") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """Reads a manifest, and verifies its fields and its own digest."""
    if not path.is_file():
        problem = f"{path.parent} has no manifest.json"
        if not path.parent.is_dir():
            problem = f"there is no folder {path.parent}"
        raise FileNotFoundError(f"open_store: {problem}, so it is no token store; write one with write_store")
    try:
        manifest = json.loads(path.read_bytes())
        facts = {key: value for key, value in manifest.items() if key != "digest"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(_damaged(path, f"it is not a JSON object ({error})")) from error
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"open_store: {path} has format {facts.get('format')!r}, expected {FORMAT!r}; write the store "
            "again"
        )
    if manifest.get("digest") != hash_json(facts):
        raise ValueError(_damaged(path, "its digest does not match its contents"))
    if problem := _describe_wrong_field(facts):
        raise ValueError(_damaged(path, problem))
    return manifest


def _describe_wrong_field(facts: Mapping[str, Any]) -> str:
    """Describes the first field that `manifest_of` cannot have written; "" if there is none."""
    for name, maximum in (("vocab_size", 2**32), ("tokens", 2**62), ("documents", 2**62)):
        if not (type(number := facts.get(name)) is int and 0 < number <= maximum):
            return f"{name} is {_shorten(number)}, expected an integer from 1 to {maximum}"
    if not isinstance(facts.get("tokenizer"), str):
        return f"tokenizer is {_shorten(facts.get('tokenizer'))}, expected a fingerprint"
    hashes = facts.get("sha256")
    if not isinstance(hashes, Mapping) or not all(isinstance(hashes.get(name), str) for name in FILES):
        return f"sha256 is {_shorten(hashes)}, expected a digest for each of {', '.join(FILES)}"
    return ""


def _shorten(value: Any) -> str:
    """JSON of a manifest's field, cut to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_file(path: Path, size: int, sha256: str | None) -> None:
    """Raises unless the file is there, is `size` bytes long and (if given) has that hash."""
    if not path.is_file():
        raise FileNotFoundError(f"open_store: {path} is missing; write the store again from its source")
    if (actual := path.stat().st_size) != size:
        raise ValueError(_damaged(path, f"it should have {size} bytes and has {actual}"))
    if sha256 is not None:
        digest = hash_blocks(read_blocks(path))
        if digest != sha256:
            raise ValueError(_damaged(path, f"sha256 {digest[:12]}..., the manifest has {sha256[:12]}..."))


def _damaged(path: Path, damage: str) -> str:
    """Error message for a damaged file."""
    return f"open_store: {path} is damaged: {damage}; write the store again from its source"
