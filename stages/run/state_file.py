"""The state's file, written and read as fast as the disk goes: hashing happens beside it, and nothing is copied.

One thread moves bytes between the tensors' memory and the file; others take sha256 of the same memory meanwhile, as
hashlib lets go of Python's lock. The bytes are those of `pure.serial.to_bytes`.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pure import serial
from pure.msgpack_writer import Piece, pieces
from pure.types import Tree
from stages.run.manifest import LeafRecord

_BLOCK = 1 << 23  # bytes moved at a time
_EARLY = 1 << 25  # bytes after which the system is asked to begin moving them to the disk
_BUFFERS = 512  # buffers in one call of writev; Linux takes 1024
_AHEAD = 8  # blocks that a hashing thread may lag behind

Block = list[tuple[Piece, memoryview]]


class Written(NamedTuple):
    """What was written."""

    bytes: int
    sha256: str
    leaves: tuple[LeafRecord, ...]


class Beside(NamedTuple):
    """A function at work in another thread: `put` gives it one more item; `result` ends the items and waits."""

    put: Callable[[Any], None]
    result: Callable[[], Any]


class _Tee(NamedTuple):
    """A stream that also shows what was read to someone else."""

    read: Callable[[int], bytes]
    readinto: Callable[[memoryview], int]


def write(path: Path, tree: Tree) -> Written:
    """Writes a tree as Flax's msgpack, waits until it is on the disk, and returns checksums of the file and each leaf.

    Args:
        path: a file that does not exist yet.
        tree: as for `serial.to_bytes`; tensors on a GPU are copied one at a time.

    Returns:
        Written(bytes, sha256 of the file, a record for each leaf in the order of the file).

    Steps:
        1. Cut the stream of pieces into blocks of 8 MiB, views of the tensors' memory.
        2. Give each block to two hashing threads (one for the file, one for the leaves), and write it.
        3. Every 32 MiB ask the system to begin moving them to the disk, so that the fsync has little left to do.
        4. fsync, while the hashing threads finish.

    Raises:
        OSError: if the disk refuses; the file is then incomplete.
        SerialError: if a leaf cannot be written; named.
    """
    with beside(_hash_file) as file, beside(_record) as leaves:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            # 1. Blocks.
            begun = 0
            for block in _blocks(pieces(serial.to_state_dict(tree))):
                # 2. Hash and write.
                file.put([data for _, data in block])
                leaves.put(block)
                _write_all(descriptor, [data for _, data in block])
                # 3. Begin early.
                begun = _begin_sync(descriptor, begun)
            # 4. To the disk.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        size, sha256 = file.result()
        return Written(size, sha256, leaves.result())


def read(path: Path, target: Tree, size: int, *, subset: bool = False) -> tuple[Tree, str]:
    """Reads a tree straight into new tensors, and takes the sha256 of the file beside it.

    Args:
        path: a file of `size` bytes.
        target: as for `serial.from_bytes`.
        size: bytes of the file.
        subset: as for `serial.from_bytes`.

    Returns:
        (the tree, sha256 of all bytes): the caller must not use the tree before it has compared the sha256.

    Raises:
        OSError: if the disk refuses.
        SerialError: if the bytes are not a state dict, or it does not fit the target: of both, damage is one cause.
    """
    with io.BufferedReader(io.FileIO(path), 1 << 16) as file, beside(_hash_file) as whole:
        small: list[bytes] = []

        def take(count: int) -> bytes:
            small.append(file.read(count))
            return small[-1]

        def fill(buffer: memoryview) -> int:
            count = file.readinto(part := buffer[:_BLOCK])
            whole.put([*small, part[:count]])
            small.clear()
            return count

        tree = serial.from_stream(target, _Tee(take, fill), size, subset=subset)
        whole.put(small)
        return tree, whole.result()[1]


@contextmanager
def beside(function: Callable[[Iterable[Any]], Any]) -> Iterator[Beside]:
    """Runs `function(items)` in a thread of its own, on the items that are put while the block runs.

    Args:
        function: consumes an iterable, returns anything.

    Yields:
        Beside. `result` raises what the function raised. However the block ends, the thread has ended too.
    """
    items: queue.Queue = queue.Queue(_AHEAD)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(iter(items.get, None)), None))
        except BaseException as error:
            outcome.append((None, error))
            for _ in iter(items.get, None):
                pass  # so that nobody waits for room in the queue

    thread = threading.Thread(target=run, name="checkpoint hash", daemon=True)

    def finish() -> None:
        if thread.is_alive():
            items.put(None)
            thread.join()

    def result() -> Any:
        finish()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    thread.start()
    try:
        yield Beside(items.put, result)
    finally:
        finish()


def _hash_file(blocks: Iterable[list]) -> tuple[int, str]:
    """Blocks of buffers -> (bytes, sha256)."""
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        for data in block:
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()


def _record(blocks: Iterable[Block]) -> tuple[LeafRecord, ...]:
    """Blocks of pieces -> where each leaf lies, and its checksums."""
    records: list[LeafRecord] = []
    offset = 0
    parts = (part for block in blocks for part in block)
    for _, group in groupby(parts, key=lambda part: id(part[0].leaf)):
        spans: list[list[int]] = []
        header, body = hashlib.sha256(), hashlib.sha256()
        for piece, data in group:
            (body if piece.payload else header).update(data)
            if piece.payload and spans and sum(spans[-1]) == offset:
                spans[-1][1] += len(data)
            elif piece.payload:
                spans.append([offset, len(data)])
            offset += len(data)
            leaf = piece.leaf
        digests = (body.hexdigest(), header.hexdigest())
        records.append(LeafRecord(leaf.path, leaf.dtype, list(leaf.shape), leaf.nbytes, *digests, spans))
    return tuple(records)


def _blocks(parts: Iterable[Piece]) -> Iterator[Block]:
    """Cuts and gathers pieces so that each block has at most 8 MiB and 512 buffers."""
    block: Block = []
    size = 0
    for piece in parts:
        whole = memoryview(piece.data)
        for start in range(0, max(len(whole), 1), _BLOCK):
            data = whole[start : start + _BLOCK]
            if block and (size + len(data) > _BLOCK or len(block) == _BUFFERS):
                yield block
                block, size = [], 0
            block.append((piece, data))
            size += len(data)
    if block:
        yield block


def _write_all(descriptor: int, buffers: list[memoryview]) -> None:
    """Writes buffers one after another; the system may take less than it was given."""
    while buffers:
        count = os.writev(descriptor, buffers)
        while buffers and count >= len(buffers[0]):
            count -= len(buffers.pop(0))
        if count:
            buffers[0] = buffers[0][count:]


def _begin_sync(descriptor: int, begun: int) -> int:
    """Asks the system (Linux) to move what was written since `begun` to the disk, without waiting -> up to where."""
    end = os.lseek(descriptor, 0, os.SEEK_CUR)
    if end - begun < _EARLY or not hasattr(os, "posix_fadvise"):
        return begun
    with suppress(OSError):  # it is only advice; the fsync at the end is what counts
        os.posix_fadvise(descriptor, begun, end - begun, os.POSIX_FADV_DONTNEED)
    return end
