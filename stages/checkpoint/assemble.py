"""Read a state from any number of pieces into a target that is whole, or cut into any number of rows.

A process reads the rows that it needs straight into their places, so that it holds its own rows and little
more; other bytes it only hashes, if they are in its share, or skips.

Shape letters: S rows of a whole leaf.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.parallel import rows
from pure.parallel.dtensor import is_dtensor
from pure.parallel.group import Group
from pure.serial import serial
from pure.serial.writer import DTYPES, SerialError, memory
from pure.types import Tree
from stages.checkpoint.damage import Damage, damage_of_leaves
from stages.checkpoint.records import LeafRecord, Piece
from stages.checkpoint.skeleton import decode_number, read_skeleton
from stages.checkpoint.state_file import NO_BYTES, Worker, hash_in_threads

_BLOCK = 1 << 23  # bytes read at a time into their place
_SCRATCH = 1 << 20  # bytes read at a time only to be hashed


class Place(NamedTuple):
    """Memory for rows of a leaf.

    Fields:
        rows: [some of S, ...], contiguous on the CPU; [] of a leaf without axes.
        first: number of the first of these rows in the whole leaf.
    """

    rows: Tensor
    first: int


class Located(NamedTuple):
    """A leaf's record, and its place in the files.

    Fields:
        file_number: number of the file.
        file: its name.
        leaf: the record.
        number: number of the leaf in the first file, the same in all; None for the end of a file.
        begin: offset of its first header.
        end: offset after its last byte.
    """

    file_number: int
    file: str
    leaf: LeafRecord
    number: int | None
    begin: int
    end: int


def read(
    folder: Path, files: Sequence[Piece], target: Tree, group: Group | None, *, subset: bool = False
) -> tuple[Tree, Damage | None]:
    """Reads a state; no collective is made.

    Args:
        folder: of the checkpoint.
        files: its files, which hold every leaf once; the first has the structure.
        target: as for `serial.from_bytes`; leaves that are cut receive this process's rows. None reads a
            state dict of whole leaves.
        group: processes that read together: each verifies what it reads, and its share of the files. None
            verifies all.
        subset: as for `serial.from_bytes`.

    Returns:
        (the tree, damage): use the tree only if there is none.

    Steps:
        1. Read the structure, and compare it, shapes and dtypes with the target, before any number is read.
        2. Allocate the target's leaves on the CPU.
        3. Read each file once, from its beginning to its end.
        4. Move the leaves to the devices of the target's.

    Raises:
        OSError: if the disk refuses.
        SerialError: if the structure cannot be read, or does not fit the target.
    """
    # 1. Structure.
    first = files[0].leaves
    skeleton = read_skeleton(folder, files[0])
    values = [_stand_in(folder, files[0], leaf) for leaf in first if leaf.dtype != "end"]
    state = fill(skeleton, values)
    if target is not None:
        state = serial.from_state_dict(tree.map(_without_data, target), state, subset=subset)
    # 2. Leaves.
    numbers = {id(value): i for i, value in enumerate(values) if isinstance(value, Tensor)}
    places: dict[int, Place] = {}

    def allocate(like: Any, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        number = numbers[id(value)]
        places[number] = _allocate(like, value)
        return places[number].rows

    result = tree.map(allocate, state if target is None else target, state)
    # 3. Numbers.
    damage = read_places(folder, locate(files), places, group)
    # 4. Devices.
    return (result if target is None else tree.map(_finish, result, target)), damage


def locate(files: Sequence[Piece]) -> list[Located]:
    """Lists every leaf of every file, in the order of the bytes.

    Args:
        files: the first has the structure.

    Returns:
        A Located for each record.
    """
    cut_numbers = [i for i, leaf in enumerate(files[0].leaves) if leaf.rows is not None]
    located = []
    for k, piece in enumerate(files):
        numbers = iter(range(len(piece.leaves)) if k == 0 else cut_numbers)
        end = 0
        for leaf in piece.leaves:
            begin, end = end, sum(leaf.spans[-1]) if leaf.spans else piece.bytes
            number = None if leaf.dtype == "end" else next(numbers)
            located.append(Located(k, piece.file, leaf, number, begin, end))
    return located


def read_places(
    folder: Path, located: Sequence[Located], places: Mapping[int, Place], group: Group | None
) -> Damage | None:
    """Reads rows of leaves straight into their places, and verifies every leaf that it reads.

    Args:
        folder: of the checkpoint.
        located: the leaves that may be read.
        places: by the number of the leaf in the first file.
        group: as in `read`; None reads all of `located`.

    Returns:
        Damage; None if every byte that was read is right.

    Raises:
        OSError: if the disk refuses.
    """
    checked: list[Located] = []
    with hash_in_threads() as digests:
        for index, of_file in itertools.groupby(located, lambda x: x.file_number):
            own_share = group is None or index % group.size == group.rank
            parts = list(of_file)
            with (folder / parts[0].file).open("rb", buffering=0) as file:
                for part in parts:
                    place = None if part.number is None else places.get(part.number)
                    if own_share or _overlaps(part.leaf, place):
                        _read_leaf(file, part, place, partial(_hash, digests, len(checked)))
                        checked.append(part)
        sums = digests.result()
    return _compare(checked, sums)


def whole_shape(leaf: LeafRecord) -> tuple[int, ...]:
    """Returns the shape of the whole leaf of which a record has some rows, or all."""
    return tuple(leaf.shape) if leaf.rows is None else (leaf.rows, *leaf.shape[1:])


def read_value(folder: Path, piece: Piece, leaf: LeafRecord) -> Any:
    """Reads a leaf that is no tensor: a number or a string.

    Raises:
        SerialError: if the bytes are none.
    """
    with (folder / piece.file).open("rb") as file:
        file.seek(leaf.spans[0][0])
        return decode_number(file.read(leaf.bytes))


def fill(skeleton: Any, values: Sequence[Any]) -> Any:
    """Returns a skeleton with values in the places of their numbers.

    Example:
        >>> fill({"a": 1, "b": {"c": 0, "d": None}}, ["x", "y"])
        {'a': 'y', 'b': {'c': 'x', 'd': None}}
    """
    if isinstance(skeleton, dict):
        return {key: fill(child, values) for key, child in skeleton.items()}
    return None if skeleton is None else values[skeleton]


def _compare(checked: Sequence[Located], sums: Mapping[int, tuple[str, str]]) -> Damage | None:
    """The damage that the checksums tell."""
    bad = [
        (part.file, part.leaf.path or "the end")
        for i, part in enumerate(checked)
        if sums.get(i, NO_BYTES) != (part.leaf.sha256, part.leaf.header_sha256)
    ]
    return damage_of_leaves(bad[0][0], dict.fromkeys(path for _, path in bad)) if bad else None


def _hash(digests: Worker, index: int, payload: bool, data: Any) -> None:
    """Gives bytes of a leaf to the hashing threads."""
    digests.put([(index, payload, memoryview(data))])


def _read_leaf(
    file: io.FileIO, located: Located, place: Place | None, take: Callable[[bool, Any], None]
) -> None:
    """Reads a leaf's headers and data; stops early where the file does, which its checksum tells."""
    view, low = _view(located.leaf, place)
    high = low + len(view)
    done = 0  # bytes of the data before this span
    file.seek(located.begin)
    for offset, length in located.leaf.spans or [[located.end, 0]]:
        take(False, file.read(offset - file.tell()))
        at, stop = done, done + length
        while at < stop:
            if low <= at < high:
                part: Any = view[at - low : min(stop, high, at + _BLOCK) - low]
            else:  # before or after the rows that are needed
                part = bytearray(min(stop, low if at < low else stop, at + _SCRATCH) - at)
            count = file.readinto(part)
            if not count:
                return
            take(True, memoryview(part)[:count])
            at += count
        done = stop


def _view(leaf: LeafRecord, place: Place | None) -> tuple[memoryview, int]:
    """The bytes of a place, and where in the leaf's data they begin (before 0: in an earlier piece)."""
    if place is None:
        return memoryview(b""), 0
    row_bytes = place.rows.shape[1:].numel() * place.rows.element_size() if place.rows.ndim else 0
    return memory(place.rows), (place.first - (leaf.first or 0)) * row_bytes


def _overlaps(leaf: LeafRecord, place: Place | None) -> bool:
    """Tells if a place takes some of a leaf's data."""
    view, low = _view(leaf, place)
    return low < leaf.bytes and low + len(view) > 0 and len(view) > 0


def _stand_in(folder: Path, piece: Piece, leaf: LeafRecord) -> Any:
    """A tensor of a leaf's whole shape and dtype that takes no memory; of other leaves the value."""
    if leaf.dtype in DTYPES:
        return torch.empty((), dtype=getattr(torch, leaf.dtype)).expand(whole_shape(leaf))
    return read_value(folder, piece, leaf)


def _without_data(leaf: Any) -> Any:
    """A tensor of a target's leaf that takes no memory."""
    if not hasattr(leaf, "dtype"):
        return leaf
    return torch.empty((), dtype=leaf.dtype).expand(tuple(leaf.shape))


def _allocate(like: Any, whole: Tensor) -> Place:
    """Memory for the rows of a leaf that the target holds."""
    if not is_dtensor(like):
        return Place(torch.empty(whole.shape, dtype=whole.dtype), 0)
    first, last = rows.own_rows(whole.shape[0], rows.group_of_rows([like]))
    return Place(torch.empty((last - first, *whole.shape[1:]), dtype=whole.dtype), first)


def _finish(value: Any, like: Any) -> Any:
    """A leaf on the device of the target's, and cut as that is."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bool and bool((value.view(torch.uint8) > 1).any()):
        raise SerialError("a bool array holds bytes other than 0 and 1")
    device = like.device if isinstance(like, Tensor) and like.device.type != "meta" else torch.device("cpu")
    return rows.wrap([value.to(device)], [like])[0] if is_dtensor(like) else value.to(device)
