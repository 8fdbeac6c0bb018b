"""Write a state that is cut into rows: each process its own piece, the first one the manifest of all.

    STEP.tmp/state-00002-of-00004.msgpack   rows of process 1; that of process 0 also has the whole leaves
    STEP.tmp/state-00002-of-00004.json      its records, written when it is on the disk
    STEP.tmp/state-00002-of-00004.lock      locked while its process writes; free if that is killed

Processes tell each other by these files, not by collectives, so that all of it can run in threads beside the
training. When all records are there the first process writes the manifest and renames the folder.
"""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.distributed.tensor import DTensor

from data_pipes.digest import hash_json
from data_pipes.files import write_atomically
from pure.parallel import rows
from pure.parallel.group import Group
from pure.serial import serial
from pure.types import Tree
from stages.checkpoint import state_file
from stages.checkpoint.records import LeafRecord, Piece, encode_leaf

PATIENCE = 600.0
"""Seconds in which a piece does not grow, after which its process counts as stuck."""
CLOSING = 5.0
"""The same where a run ends by an error, unless the process is known to be alive."""
_POLL = 0.02  # seconds between two looks at a folder
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
    cut_over = rows.group_of_rows(state)
    if (cut_over.size, cut_over.rank) != (group.size, group.rank):
        raise ValueError(
            f"checkpoint.save: the state is cut over {cut_over.size} processes, and {group.size} save it; "
            "give the group of its mesh"
        )
    cuts: list[tuple[int, int] | None] = []
    part = _own(serial.to_state_dict(state), group, copy, cuts)
    return Part({} if part is _ABSENT else part, tuple(cuts))


def write_piece(folder: Path, part: Part, group: Group, token: str) -> None:
    """Writes this process's piece and, when that is on the disk, its records.

    Args:
        folder: the temporary folder, which exists.
        part: from `own_part`.
        group: this process's rank, and the number of pieces.
        token: name of this save, the same on all processes.

    Raises:
        OSError: if the disk refuses.
        SerialError: if a leaf cannot be written.
    """
    name = piece_name(group.rank, group.size)
    with _locked(folder / f"{name}.lock"):
        written = state_file.write_dict(folder / f"{name}.msgpack", part.state)
        cuts = [*part.cuts, *[None] * (len(written.leaves) - len(part.cuts))]  # none for the end
        leaves = [
            leaf if cut is None else leaf._replace(first=cut[0], rows=cut[1])
            for leaf, cut in zip(written.leaves, cuts, strict=True)
        ]
        body = {"save": token, "bytes": written.bytes, "leaves": [encode_leaf(leaf) for leaf in leaves]}
        body["sha256"] = hash_json(body)
        write_atomically(folder / f"{name}.json", json.dumps(body).encode())


def await_pieces(
    folder: Path, size: int, token: str, *, stop: threading.Event, closing: threading.Event
) -> tuple[Piece, ...]:
    """Waits until all processes have written their pieces; removes the files with the records.

    Args:
        folder: the temporary folder.
        size: number of processes.
        token: as in `write_piece`.
        stop: set when another process has failed; ends the wait.
        closing: set when the run ends by an error, which another process may have died of.

    Returns:
        The pieces.

    Raises:
        OSError: if a process ended or failed before its piece was complete, or its piece does not grow for
            PATIENCE seconds; the message has its rank.
    """
    pieces = tuple(_await_piece(folder, rank, size, token, stop, closing) for rank in range(size))
    for rank in range(size):
        for suffix in (".json", ".lock"):
            with suppress(FileNotFoundError):
                (folder / f"{piece_name(rank, size)}{suffix}").unlink()
    return pieces


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
    if isinstance(node, DTensor):
        cuts.append((rows.own_rows(node.shape[0], group)[0], node.shape[0]))
        mine = rows.local([node])[0].detach()
        return copy_to_host(mine) if copy else mine
    if group.rank != 0:
        return _ABSENT
    if node is not None:
        cuts.append(None)
    return copy_to_host(node) if copy else node


def _await_piece(
    folder: Path, rank: int, size: int, token: str, stop: threading.Event, closing: threading.Event
) -> Piece:
    """Waits for one piece."""
    name = piece_name(rank, size)
    length, since = -1, time.monotonic()
    while True:
        ended = _has_ended(folder / f"{name}.lock")
        piece = _read_record(folder, name, token)
        if piece is not None:
            return piece
        if stop.is_set():
            raise OSError(errno.ECANCELED, "another process could not write its piece")
        if ended:
            raise OSError(errno.EIO, f"process {rank} ended before {name}.msgpack was complete")
        try:
            now = (folder / f"{name}.msgpack").stat().st_size
        except OSError:
            now = -1
        if now != length:
            length, since = now, time.monotonic()
        patience = CLOSING if closing.is_set() and ended is None else PATIENCE
        if time.monotonic() - since > patience:
            raise OSError(
                errno.ETIMEDOUT,
                f"process {rank} has written nothing to {name}.msgpack for {patience:.0f} s",
            )
        stop.wait(_POLL)


def _read_record(folder: Path, name: str, token: str) -> Piece | None:
    """The records of a piece of this save, or None."""
    try:
        body = json.loads((folder / f"{name}.json").read_bytes())
    except FileNotFoundError:
        return None
    digest = body.pop("sha256", None)
    if digest != hash_json(body) or body.get("save") != token:
        raise OSError(errno.EIO, f"{name}.json belongs to another save, or is damaged")
    leaves = tuple(LeafRecord(**leaf) for leaf in body["leaves"])
    return Piece(f"{name}.msgpack", body["bytes"], leaves)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Locks a file while the block runs; the system unlocks it if this process is killed."""
    with path.open("xb") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"locked")
            file.flush()
        except (ImportError, OSError):  # a system without locks: the length of the piece tells
            pass
        yield


def _has_ended(path: Path) -> bool | None:
    """Tells whether the process that locks a file has ended; None if the file system does not tell."""
    try:
        import fcntl

        with path.open("rb") as file:
            if not file.read(1):  # not locked yet
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
