"""The structure of a state's file without its numbers, read from its headers alone.

Headers are the bytes between the data of the leaves, a few dozen each; reading them tells every key, empty
dict and None, whatever the size of the state.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pure.serial.reader import read
from pure.serial.writer import CHUNK_BYTES, DTYPES, SerialError, tensor_headers
from stages.checkpoint.records import LeafRecord, Piece

_NODES = 2**22  # maximum entries of dicts; the manifest, which is verified, has fewer leaves


def read_skeleton(folder: Path, piece: Piece) -> Any:
    """Reads the structure of a state from its first file.

    Args:
        folder: of the checkpoint.
        piece: records of that file.

    Returns:
        The state dict, with the number of its record in the place of each leaf.

    Raises:
        OSError: if the file cannot be read.
        SerialError: if its headers are not those that the records describe.
    """
    with (folder / piece.file).open("rb") as file:
        data = b"".join(_structure(file, piece.leaves, piece.bytes))
    numbers = iter(range(len(piece.leaves)))
    tree = _number(read(io.BytesIO(data), len(data), max_nodes=_NODES), numbers)
    count = sum(leaf.dtype != "end" for leaf in piece.leaves)
    if next(numbers, count) != count:
        raise SerialError(f"{piece.file}: its headers have another number of leaves than the manifest")
    return tree


def decode_number(data: bytes) -> Any:
    """Reads the value of a leaf that is no tensor: a number or a string.

    Raises:
        SerialError: if the bytes are none.
    """
    return read(io.BytesIO(data), len(data))


def _structure(file: BinaryIO, leaves: Sequence[LeafRecord], size: int) -> Iterator[bytes]:
    """Yields msgpack in which each leaf is `true`."""
    for leaf in leaves:
        spans = leaf.spans or [[size, 0]]
        begin = file.tell()
        head = file.read(spans[0][0] - begin)
        file.seek(sum(spans[-1]))
        if leaf.dtype == "end":
            yield head
            continue
        own = _own_header(leaf)
        if not head.endswith(own):
            raise SerialError(f"{leaf.path}: its header is not that of {leaf.dtype}{leaf.shape}")
        yield head[: len(head) - len(own)] + b"\xc3"


def _own_header(leaf: LeafRecord) -> bytes:
    """The bytes between a leaf's key and its data."""
    if leaf.dtype not in DTYPES:
        return b""
    return tensor_headers(tuple(leaf.shape), getattr(torch, leaf.dtype), CHUNK_BYTES)


def _number(node: Any, numbers: Iterator[int]) -> Any:
    """Puts the numbers of the leaves into their places, in order."""
    if isinstance(node, dict):
        return {key: _number(child, numbers) for key, child in node.items()}
    return None if node is None else next(numbers)
