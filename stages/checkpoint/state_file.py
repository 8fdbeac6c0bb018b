"""Write and read the state's file at the speed of the disk, hashing in other threads and copying nothing.

One thread moves bytes between the tensors' memory and the file; others hash the same memory meanwhile, as
hashlib releases Python's lock. The bytes are those of `pure.serial.serial.to_bytes`.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes.files import sync_file
from pure.serial import serial
from pure.serial.writer import Leaf, Piece, pieces
from pure.types import Tree
from stages.checkpoint.records import LeafRecord, piece_ends

_BLOCK = 1 << 23  # bytes moved at a time
_EARLY = 1 << 25  # bytes after each of which the system is asked to start writing to the disk
_BUFFERS = 512  # buffers in one call of writev; Linux takes 1024
_AHEAD = 8  # maximum blocks that wait for a hashing thread
NO_BYTES = (hashlib.sha256().hexdigest(),) * 2
"""sha256 of data and header of a leaf without bytes."""

Part = tuple[int, bool, memoryview]  # index of the leaf, is data (else header), bytes
Hashing = Callable[[list[Part]], None]


class Written(NamedTuple):
    """Length of a written file, and the checksums of its leaves."""

    bytes: int
    leaves: tuple[LeafRecord, ...]


class Worker(NamedTuple):
    """A function that runs in another thread.

    Fields:
        put: gives it one more item.
        result: ends the items, waits, and returns the function's result.
    """

    put: Callable[[Any], None]
    result: Callable[[], Any]


class _Tee(NamedTuple):
    """A stream that also passes what is read to the hashing threads."""

    read: Callable[[int], bytes]
    readinto: Callable[[memoryview], int]


def write(path: Path, tree: Tree) -> Written:
    """Writes a tree as Flax's msgpack, waits until it is on the disk, and returns the checksums of each leaf.

    Args:
        path: a file that does not exist yet.
        tree: as for `serial.to_bytes`; tensors on a GPU are copied one at a time.

    Returns:
        Written(bytes, a record for each leaf in the order of the file).

    Raises:
        OSError: if the disk refuses; the file is then incomplete.
        SerialError: if a leaf cannot be written; the message names it.
    """
    return write_dict(path, serial.to_state_dict(tree))


def write_dict(path: Path, state: Any) -> Written:
    """Writes a state dict, as `write` writes a tree.

    Args:
        path: a file that does not exist yet.
        state: from `serial.to_state_dict`; leaves may be `pure.serial.writer.Lazy`.

    Returns:
        As `write`.

    Steps:
        1. Cut the stream of pieces into blocks of 8 MiB, views of the tensors' memory.
        2. Give each block to the hashing threads, and write it.
        3. Every 32 MiB, ask the system to start writing to the disk, so that little is left for fsync.
        4. fsync, while the hashing threads finish.

    Raises:
        OSError, SerialError: as `write`.
    """
    leaves: list[tuple[Leaf, list[list[int]]]] = []
    with hash_in_threads() as digests:
        with open(path, "xb", buffering=0) as file:
            # 1. Blocks.
            begun = 0
            for block in _blocks(_parts(pieces(state), leaves)):
                # 2. Hash and write.
                digests.put(block)
                _write_all(file.fileno(), [data for _, _, data in block])
                # 3. Start writing to the disk.
                begun = _begin_sync(file.fileno(), begun)
            # 4. To the disk.
            size = file.tell()
            sync_file(file)
        sums = digests.result()
    records = []
    for (leaf, spans), (_, (data, header)) in zip(leaves, sorted(sums.items()), strict=True):
        records.append(LeafRecord(leaf.path, leaf.dtype, list(leaf.shape), leaf.nbytes, data, header, spans))
    return Written(size, tuple(records))


def read(
    path: Path, target: Tree, leaves: Sequence[LeafRecord], size: int, *, subset: bool = False
) -> tuple[Tree, tuple[str, ...]]:
    """Reads a tree straight into new tensors, and verifies each leaf in other threads.

    Args:
        path: a file of `size` bytes.
        target: as for `serial.from_bytes`.
        leaves: records of the file's leaves; together they cover it.
        size: the file's length in bytes.
        subset: as for `serial.from_bytes`.

    Returns:
        (the tree, paths of damaged leaves): use the tree only if there are none.

    Raises:
        OSError: if the disk refuses.
        SerialError: if the bytes are not a state dict, or it does not fit the target; either may come from
            damage.
    """
    cut = _cutter(leaves, size)
    with io.BufferedReader(io.FileIO(path), 1 << 16) as file, hash_in_threads() as digests:
        unhashed: list[bytes] = []

        def take(count: int) -> bytes:
            unhashed.append(file.read(count))
            return unhashed[-1]

        def fill(buffer: memoryview) -> int:
            count = file.readinto(part := buffer[:_BLOCK])
            digests.put([*cut(b"".join(unhashed)), *cut(part[:count])])
            unhashed.clear()
            return count

        tree = serial.from_stream(target, _Tee(take, fill), size, subset=subset)
        digests.put(cut(b"".join(unhashed)))
        sums = digests.result()
    bad = []
    for i, leaf in enumerate(leaves):
        if sums.get(i, NO_BYTES) != (leaf.sha256, leaf.header_sha256):
            bad.append(leaf.path or "the end")
    return tree, tuple(bad)


@contextmanager
def hash_in_threads() -> Iterator[Worker]:
    """Starts threads that hash parts; each thread has its share of the leaves.

    Yields:
        Worker: `put` takes a list of parts, in order; `result` is {index of a leaf: (sha256 of data, of
            headers)}.
    """
    count = max(1, min(4, (os.cpu_count() or 1) - 1))  # one core is busy moving the bytes
    with ExitStack() as stack:
        workers = [stack.enter_context(run_in_thread(_hash_parts)) for _ in range(count)]

        def put(parts: list[Part]) -> None:
            for i, worker in enumerate(workers):
                worker.put([part for part in parts if part[0] % count == i])

        def result() -> dict[int, tuple[str, str]]:
            return {index: sums for worker in workers for index, sums in worker.result().items()}

        yield Worker(put, result)


@contextmanager
def run_in_thread(function: Callable[[Iterable[Any]], Any]) -> Iterator[Worker]:
    """Runs `function(items)` in a new thread, on the items that are put while the block runs.

    Args:
        function: consumes an iterable, returns anything.

    Yields:
        Worker. `result` raises what the function raised. However the block ends, the thread has ended too.
    """
    items: queue.Queue = queue.Queue(_AHEAD)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(iter(items.get, None)), None))
        except BaseException as error:
            outcome.append((None, error))
            for _ in iter(items.get, None):
                pass  # so that `put` never waits for room in the queue

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
        yield Worker(items.put, result)
    finally:
        finish()


def _hash_parts(blocks: Iterable[list[Part]]) -> dict[int, tuple[str, str]]:
    """Parts -> {index of a leaf: (sha256 of its data, of its headers)}."""
    hashes: dict[int, tuple] = {}
    for index, payload, data in itertools.chain.from_iterable(blocks):
        if index not in hashes:
            hashes[index] = (hashlib.sha256(), hashlib.sha256())
        hashes[index][0 if payload else 1].update(data)
    return {index: (data.hexdigest(), header.hexdigest()) for index, (data, header) in hashes.items()}


def _parts(stream: Iterable[Piece], leaves: list[tuple[Leaf, list[list[int]]]]) -> Iterator[Part]:
    """Pieces as parts; appends each leaf to `leaves`, with the spans of its data."""
    offset = 0
    for leaf, payload, data in stream:
        if not leaves or leaves[-1][0] is not leaf:
            leaves.append((leaf, []))
        if payload:
            leaves[-1][1].append([offset, len(data)])
        offset += len(data)
        yield len(leaves) - 1, payload, memoryview(data)


def _cutter(leaves: Sequence[LeafRecord], size: int) -> Callable[[Any], list[Part]]:
    """A function that cuts a file into parts; it takes the file's bytes in order, any number at a time."""
    ends = [x for x in piece_ends(leaves, size) if x[0] > 0]
    position = current = 0

    def cut(data: Any) -> list[Part]:
        nonlocal position, current
        parts, left = [], memoryview(data)
        while left:
            while ends[current][0] <= position:
                current += 1
            end, index, payload = ends[current]
            parts.append((index, payload, left[: end - position]))
            left = left[end - position :]
            position += len(parts[-1][2])
        return parts

    return cut


def _blocks(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Cuts parts, and joins them into blocks of at most 8 MiB and 512 buffers."""
    block: list[Part] = []
    size = 0
    for index, payload, part in parts:
        for start in range(0, max(len(part), 1), _BLOCK):
            data = part[start : start + _BLOCK]
            if block and (size + len(data) > _BLOCK or len(block) == _BUFFERS):
                yield block
                block, size = [], 0
            block.append((index, payload, data))
            size += len(data)
    if block:
        yield block


def _write_all(descriptor: int, buffers: list[memoryview]) -> None:
    """Writes buffers one after another; one call of writev may write only part of them."""
    while buffers:
        count = os.writev(descriptor, buffers)
        while buffers and count >= len(buffers[0]):
            count -= len(buffers.pop(0))
        if count:
            buffers[0] = buffers[0][count:]


def _begin_sync(descriptor: int, begun: int) -> int:
    """Asks the system (Linux) to start writing the bytes from offset `begun` to disk; returns their end."""
    end = os.lseek(descriptor, 0, os.SEEK_CUR)
    if end - begun < _EARLY or not hasattr(os, "posix_fadvise"):
        return begun
    with suppress(OSError):  # only advice: the fsync at the end writes them in any case
        os.posix_fadvise(descriptor, begun, end - begun, os.POSIX_FADV_DONTNEED)
    return end
