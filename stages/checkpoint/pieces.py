"""Write a state that is cut into rows: each process its own piece, Flax's msgpack of the rows that it holds.

STEP.tmp/state-00001-of-00004.msgpack   rows of process 0, and all leaves that are not cut
STEP.tmp/state-00002-of-00004.msgpack   rows of process 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pure.parallel import rows
from pure.parallel.dtensor import is_dtensor
from pure.parallel.group import Group
from pure.plural import count_noun
from pure.serial import serial
from pure.types import Tree
from stages.checkpoint import state_file
from stages.checkpoint.manifest import PIECES, Manifest
from stages.checkpoint.records import LeafRecord, Piece, check_pieces, encode_leaf

_ABSENT = object()


class Part(NamedTuple):
    """The part of a state that one process writes.

    Fields:
        state: a state dict: its rows, and on the first process all leaves that are not cut.
        cuts: (first row, rows of the whole leaf) of each leaf of `state` in order, None for a whole one.
    """

    state: Any
    cuts: tuple[tuple[int, int] | None, ...]


def own_part(state: Tree, group: Group, *, copy: bool) -> Part:
    """Returns this process's part of a state that is cut into rows.

    Args:
        state: tree with leaves that are cut (`pure.parallel.rows`); all others are the same on all processes.
        group: the processes that save.
        copy: copy every tensor to host memory of its own, so that the state may be overwritten.

    Returns:
        Part.

    Raises:
        ValueError: if the state is cut over another number of processes.
        SerialError: if it is no tree that can be written.
    """
    check_group(state, group)
    cuts: list[tuple[int, int] | None] = []
    part = _own(serial.to_state_dict(state), group, copy, cuts)
    return Part({} if part is _ABSENT else part, tuple(cuts))


def check_group(state: Tree, group: Group) -> None:
    """Checks that a state is cut over the processes that save it.

    Raises:
        ValueError: if it is cut over others.
    """
    cut_over = rows.group_of_rows(state)
    if (cut_over.size, cut_over.rank) != (group.size, group.rank):
        raise ValueError(
            f"checkpoint.save: the state is cut over {count_noun(cut_over.size, 'process', 'processes')}, "
            f"and the group that saves it has {group.size}; give the group of its mesh"
        )


def write_piece(folder: Path, part: Part, group: Group) -> dict[str, Any]:
    """Writes this process's piece.

    Args:
        folder: the temporary folder, which exists.
        part: from `own_part`.
        group: this process's rank, and the number of pieces.

    Returns:
        Its records, as JSON for `gather_records`.

    Raises:
        OSError: if the disk refuses.
        SerialError: if a leaf cannot be written.
    """
    written = state_file.write_dict(folder / f"{piece_name(group.rank, group.size)}.msgpack", part.state)
    cuts = [*part.cuts, *[None] * (len(written.leaves) - len(part.cuts))]  # none for the end
    leaves = [
        leaf if cut is None else leaf._replace(first=cut[0], rows=cut[1])
        for leaf, cut in zip(written.leaves, cuts, strict=True)
    ]
    return {"bytes": written.bytes, "leaves": [encode_leaf(leaf) for leaf in leaves]}


def gather_records(record: Manifest, words: Sequence[Any]) -> Manifest:
    """Returns the manifest of the pieces of all processes.

    Args:
        record: without files.
        words: what `write_piece` returned, by rank.

    Raises:
        ValueError: if the pieces do not hold every row once.
    """
    pieces = tuple(
        Piece(
            f"{piece_name(rank, len(words))}.msgpack",
            word["bytes"],
            tuple(LeafRecord(**leaf) for leaf in word["leaves"]),
        )
        for rank, word in enumerate(words)
    )
    check_pieces(pieces)
    return record._replace(format=PIECES, pieces=pieces)


def piece_name(rank: int, size: int) -> str:
    """Returns the name of a process's piece, without suffix.

    Example:
        >>> piece_name(1, 4)
        'state-00002-of-00004'
    """
    return f"state-{rank + 1:05}-of-{size:05}"


def copy_to_host(x: Any) -> Any:
    """Copies a tensor into host memory of its own; returns any other leaf as it is."""
    return x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x


def _own(node: Any, group: Group, copy: bool, cuts: list[tuple[int, int] | None]) -> Any:
    """This process's part of a state dict, or _ABSENT; appends the cut of each leaf."""
    if isinstance(node, dict):
        children = {key: _own(child, group, copy, cuts) for key, child in node.items()}
        present = {key: child for key, child in children.items() if child is not _ABSENT}
        return present if present or group.rank == 0 else _ABSENT
    if is_dtensor(node):
        cuts.append((rows.own_rows(node.shape[0], group)[0], node.shape[0]))
        mine = rows.local([node])[0].detach()
        return copy_to_host(mine) if copy else mine
    if group.rank != 0:
        return _ABSENT
    if node is not None:
        cuts.append(None)
    return copy_to_host(node) if copy else node
