"""Records of the files of a checkpoint: each leaf's place and checksums, and the rows that a piece holds.

Shape letters: S rows of a whole leaf.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from data_pipes.digest import hash_bytes
from pure.serial.writer import DTYPES


class LeafRecord(NamedTuple):
    """A leaf's place in the state's file, and its checksums.

    Fields:
        path: "params/layers/0/attention/q"; "" for the bytes after the last leaf,
            which hold the structure of the tree.
        dtype: as numpy names it, or a Python type's name.
        shape: its sizes.
        bytes: length of its data.
        sha256: of its data alone, so that equal leaves in different checkpoints have equal digests.
        header_sha256: of the bytes before and (if it is in chunks) between its data.
        spans: (offset, length) of each contiguous piece of its data in the file.
        first: number of its first row in the whole leaf; None if it is whole.
        rows: S, rows of the whole leaf; None if it is whole.
    """

    path: str
    dtype: str
    shape: list[int]
    bytes: int
    sha256: str
    header_sha256: str
    spans: list[list[int]]
    first: int | None = None
    rows: int | None = None


class Piece(NamedTuple):
    """One of several files that hold a state together.

    Fields:
        file: its name.
        bytes: its length.
        leaves: in the order of the file; together they cover it. () in a file of
            torch.distributed.checkpoint.
        sha256: of the whole file, where it has no leaves.
    """

    file: str
    bytes: int
    leaves: tuple[LeafRecord, ...] = ()
    sha256: str = ""


def encode_leaf(leaf: LeafRecord) -> dict[str, Any]:
    """Returns a leaf's JSON; without `first` and `rows`, if it is whole."""
    fields = leaf._asdict()
    return {name: value for name, value in fields.items() if value is not None}


def encode_piece(piece: Piece) -> dict[str, Any]:
    """Returns the JSON of a file in a manifest, without its leaves."""
    if not piece.leaves:
        return {"bytes": piece.bytes, "sha256": piece.sha256}
    digest = hash_leaves(piece.leaves)
    return {"bytes": piece.bytes, "leaves": len(piece.leaves), "sha256_of_leaves": digest}


def decode_pieces(files: Mapping[str, Any], leaves: Sequence[LeafRecord]) -> tuple[Piece, ...]:
    """Gives each file its leaves; inverts `encode_piece`.

    Raises:
        ValueError: if the numbers of leaves do not add up.
        KeyError, TypeError: if a field is missing or no object.
    """
    pieces, begin = [], 0
    for file, fields in files.items():
        end = begin + fields.get("leaves", 0)
        pieces.append(Piece(file, fields["bytes"], tuple(leaves[begin:end]), fields.get("sha256", "")))
        begin = end
    if begin != len(leaves):
        raise ValueError("its files do not have all of its leaves")
    return tuple(pieces)


def hash_leaves(leaves: Iterable[LeafRecord]) -> str:
    """Hashes header_sha256 and sha256 (as hex) of each leaf in turn: the digest of the whole file."""
    return hash_bytes("".join(leaf.header_sha256 + leaf.sha256 for leaf in leaves).encode())


def piece_ends(leaves: Sequence[LeafRecord], size: int) -> list[tuple[int, int, bool]]:
    """Lists where each part of a file ends: [(offset, index of the leaf, is data)], ascending.

    A part is the header or a contiguous part of the data of one leaf.

    Example:
        >>> one = LeafRecord("w", "int8", [2], 2, "", "", [[5, 2]])
        >>> piece_ends([one, one._replace(path="", spans=[])], 8)
        [(5, 0, False), (7, 0, True), (8, 1, False)]
    """
    ends = []
    for i, leaf in enumerate(leaves):
        for offset, length in leaf.spans:
            ends += [(offset, i, False), (offset + length, i, True)]
        if not leaf.spans:
            ends.append((size, i, False))
    return ends


def check_file(leaves: Sequence[LeafRecord], size: int, *, covered: bool = True) -> None:
    """Checks the records of one file's leaves.

    Args:
        leaves: in the order of the file.
        size: its length in bytes.
        covered: False lets a file have no leaves.

    Raises:
        ValueError: if a field has a wrong type, or the leaves do not cover the file.
    """
    numbers = [size]
    for leaf in leaves:
        numbers += _list_integers(leaf)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("its numbers must be whole and not negative")
    ends = [0, *(end for end, _, _ in piece_ends(leaves, size))]
    if covered and (ends != sorted(ends) or ends[-1] != size):
        raise ValueError("its leaves do not cover the file one after another")
    texts = [t for leaf in leaves for t in (leaf.path, leaf.dtype, leaf.sha256, leaf.header_sha256)]
    if not all(type(t) is str for t in texts):
        raise ValueError("a field has the wrong type")


def check_pieces(pieces: Sequence[Piece]) -> None:
    """Checks that pieces hold each leaf once: every row, in order, and whole leaves in the first file.

    Raises:
        ValueError: if they do not, or a name would lie outside the folder.
    """
    for piece in pieces:
        if not piece.file.isprintable() or "/" in piece.file or "\\" in piece.file:
            raise ValueError(f"{piece.file[:80]!r} is no name of a file")
        if type(piece.sha256) is not str:
            raise ValueError("a field has the wrong type")
        check_file(piece.leaves, piece.bytes, covered=bool(piece.leaves or not piece.sha256))
    columns = [[leaf for leaf in piece.leaves if leaf.rows is not None] for piece in pieces]
    if len({len(column) for column in columns}) > 1:
        raise ValueError("its pieces do not have the same leaves")
    for rows in zip(*columns, strict=True):
        _check_rows(rows)
    if any(leaf.rows is None and leaf.path for piece in pieces[1:] for leaf in piece.leaves):
        raise ValueError("only the first piece may have whole leaves")


def _check_rows(parts: Sequence[LeafRecord]) -> None:
    """Raises ValueError unless parts of a leaf follow one another, from its first row to its last."""
    first, end = parts[0], 0
    for part in parts:
        kind = (part.path, part.dtype, part.rows, part.shape[1:])
        if kind != (first.path, first.dtype, first.rows, first.shape[1:]) or part.dtype not in DTYPES:
            raise ValueError(f"its pieces of {first.path!r} belong to different leaves")
        if not part.shape or part.first != end or part.bytes != bytes_of(part):
            raise ValueError(f"the rows of {first.path!r} do not follow one another")
        end += part.shape[0]
    if end != first.rows:
        raise ValueError(f"rows of {first.path!r} are missing: {end} of {first.rows}")


def bytes_of(leaf: LeafRecord) -> int:
    """Returns the bytes of a tensor of a record's shape and dtype."""
    return math.prod(leaf.shape) * getattr(torch, leaf.dtype).itemsize


def _list_integers(leaf: LeafRecord) -> list[int]:
    """Lists the integers of a leaf's record; raises ValueError if a span is not a pair."""
    if any(len(span) != 2 for span in leaf.spans):
        raise ValueError("spans must be pairs of offset and length")
    optional = [n for n in (leaf.first, leaf.rows) if n is not None]
    return [leaf.bytes, *leaf.shape, *itertools.chain(*leaf.spans), *optional]
