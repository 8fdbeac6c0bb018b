"""Damage of a checkpoint's files: which leaves have other bytes than were written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

from stages.checkpoint.records import LeafRecord, Piece


class Damage(NamedTuple):
    """Damage of a checkpoint."""

    file: str  # "state.msgpack", the name of a piece, or "manifest.json"
    leaves: tuple[str, ...]  # paths of the leaves that cannot be trusted; () if unknown
    reason: str


def find_damage(file: BinaryIO, size: int, piece: Piece) -> Damage | None:
    """Compares a file with its records leaf by leaf, and names the damaged leaves.

    Args:
        file: open at its beginning.
        size: the file's length in bytes.
        piece: the file's records.

    Returns:
        Damage; None if every byte is as it was written.
    """
    bad = [leaf.path or "the end" for leaf in piece.leaves if not _is_intact(file, leaf, size)]
    if size != piece.bytes:
        how = "is cut off" if size < piece.bytes else "is too long"
        last = [leaf.path for leaf in piece.leaves[-1:]]
        return Damage(
            piece.file, tuple(bad or last), f"it {how}: {piece.bytes} bytes were written, the file has {size}"
        )
    return damage_of_leaves(piece.file, bad) if bad else None


def damage_of_leaves(file: str, leaves: Iterable[str]) -> Damage:
    """Describes the damage of leaves whose sha256 is wrong."""
    return Damage(file, tuple(leaves), "bytes have changed since it was written (sha256)")


def reason_of(error: Exception) -> str:
    """Return an error's message; of an OSError, without the number and the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _is_intact(file: BinaryIO, leaf: LeafRecord, size: int) -> bool:
    """Verifies a leaf's data and the bytes before it; `file` is positioned at its header."""
    header, data = hashlib.sha256(), hashlib.sha256()
    for offset, length in leaf.spans or [[size, 0]]:  # no data: header up to the end of the file
        _hash_next(header, file, offset - file.tell())
        _hash_next(data, file, length)
    return data.hexdigest() == leaf.sha256 and header.hexdigest() == leaf.header_sha256


def _hash_next(digest: Any, file: BinaryIO, length: int) -> None:
    """Hashes the next `length` bytes of a file, or as many as there are."""
    while length > 0 and (block := file.read(min(length, 1 << 20))):
        digest.update(block)
        length -= len(block)
