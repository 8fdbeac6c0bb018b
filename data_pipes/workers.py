"""Map a function over a stream in several processes; the results come in the order of the stream.

A worker is a new Python process that imports only what the function needs. It is no fork: a process that has
loaded torch runs threads, and a fork of it may hang. Nor does it import the caller's main module, as
multiprocessing's "spawn" would, and torch with it: it begins in a quarter of a second.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from queue import SimpleQueue
from typing import IO, Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Pending = tuple[Any, "Future[Any] | None"]
"""An item that was read, and its result to come; None for the Failure that ends the stream."""

FEW = 4
"""With workers=None so many items, or fewer, are computed in this process: starting others takes as long."""

HEADER = 8
"""Bytes of the length before each message to or from a worker, little-endian."""


class Failure(NamedTuple):
    """The error that ended the stream of items; it is raised after the results of the items before it."""

    error: Exception


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = 1
) -> Iterator[tuple[Item, Result]]:
    """Computes `function` of each item in worker processes, and yields items with their results, in order.

    The results are those of one process, bit for bit, if the function is pure: which worker computes an item
    changes nothing. It may keep a cache, of which each worker has its own copy.

    Args:
        function: picklable: a function of a module (not of the main script), or a partial of one.
        items: picklable; read in order, at most 2 · workers + 2 ahead of the item that is yielded. An item
            should take longer to compute than to pickle, such as a few million characters of text.
        workers: number of processes, >= 1. 1 computes in this process, and reads nothing ahead; None takes
            `usable_cores()`, or 1 for at most FEW items.

    Returns:
        An iterator over (item, result). Closing it ends the workers; so do an error, Ctrl-C, and the end of
        this process in any way.

    Raises:
        ValueError: if workers is below 1.
        TypeError: if the function cannot be pickled.
        Exception: that the function raised for an item, or that reading the items raised, after the results
            of all items before it. (With workers=1 the traceback has the function's frames, too.)
        ChildProcessError: if a worker process ended, such as one that the system killed as memory ran out.

    Example:
        >>> list(map_in_order(len, ["a", "bcd"]))
        [('a', 1), ('bcd', 3)]
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}; None takes one process a core")
    return _map(function, items, workers)


def group(items: Iterable[Item], size: int, measure: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yields lists of consecutive items, each as short as possible with at least `size` in all; the last
    may have less.

    Example:
        >>> list(group(["ab", "c", "d", "e"], 3, len))
        [['ab', 'c'], ['d', 'e']]
    """
    found: list[Item] = []
    total = 0
    for item in items:
        found.append(item)
        total += measure(item)
        if total >= size:
            yield found
            found, total = [], 0
    if found:
        yield found


def usable_cores() -> int:
    """Counts the cores that this process may use (all, where the system has no affinity)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def serve() -> None:
    """Runs in a worker process: receives the function, then replies to each item, until the pipe closes."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not come between the replies
    with suppress(EOFError, OSError):
        function = _load(_receive(requests))
        while True:
            _send(replies, _reply(function, _receive(requests)))
    os._exit(0)  # closing `replies` would fail if the parent is gone


def _map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None
) -> Iterator[tuple[Item, Result]]:
    """`map_in_order`, its argument checked: chooses between this process and others."""
    source = _catch_failure(items)
    if workers is None:
        head = list(islice(source, FEW + 1))
        source = chain(head, source)
        workers = usable_cores() if len(head) > FEW else 1
    if workers > 1:
        yield from _map_in_processes(function, source, workers)
        return
    for item in source:
        if isinstance(item, Failure):
            raise item.error
        yield item, function(item)


def _map_in_processes(
    function: Callable[[Item], Result], source: Iterator[Item | Failure], workers: int
) -> Iterator[tuple[Item, Result]]:
    """`map_in_order` with worker processes.

    Steps:
        1. Start the workers, and send the function to each.
        2. Read an item, and queue it; one thread for each worker sends it the next item once it has replied.
        3. Once enough items are in flight, wait for the oldest result, and yield it.
        4. Kill the workers, however the iteration ended.
    """
    message = _pickle_function(function)
    processes: list[subprocess.Popen[bytes]] = []
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    pending: deque[Pending] = deque()
    threads = ThreadPoolExecutor(workers)
    try:
        # 1. Workers.
        for _ in range(workers):
            processes.append(_start_process())
        for process in processes:
            threads.submit(_send_function, process, message, idle)
        for item in source:
            # 2. Queue.
            future = None if isinstance(item, Failure) else threads.submit(_compute, idle, item)
            pending.append((item, future))
            # 3. The oldest.
            if len(pending) > 2 * workers + 2:
                yield _pop(pending)
        while pending:
            yield _pop(pending)
    finally:
        # 4. End.
        _end(processes, threads)


def _catch_failure(items: Iterable[Item]) -> Iterator[Item | Failure]:
    """Yields the items, and as the last one a Failure if reading them raised."""
    try:
        yield from items
    except Exception as error:
        yield Failure(error)


def _pop(pending: deque[Pending]) -> tuple[Any, Any]:
    """Waits for the oldest result, and returns it with its item; raises its error."""
    item, future = pending.popleft()
    if future is None:
        raise item.error
    return item, future.result()


def _start_process() -> subprocess.Popen[bytes]:
    """Starts a worker. It has a session of its own, so that Ctrl-C reaches only this process."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    code = f"import sys; sys.path[:] = {path!r}; from data_pipes.workers import serve; serve()"
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def _send_function(
    process: subprocess.Popen[bytes], message: bytes, idle: SimpleQueue[subprocess.Popen[bytes]]
) -> None:
    """Sends the function to a worker once it has begun. One that ended is found when it gets an item."""
    try:
        with suppress(OSError):
            _send(process.stdin, message)
    finally:
        idle.put(process)


def _compute(idle: SimpleQueue[subprocess.Popen[bytes]], item: Any) -> Any:
    """Has an idle worker compute an item; returns the result, or raises the error that it sent."""
    message = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
    process = idle.get()
    try:
        _send(process.stdin, message)
        reply = _receive(process.stdout)
    except (EOFError, OSError):
        raise ChildProcessError(_describe_end(process)) from None
    finally:
        idle.put(process)
    succeeded, value = pickle.loads(reply)
    if not succeeded:
        raise value
    return value


def _describe_end(process: subprocess.Popen[bytes]) -> str:
    """Says how a worker process ended."""
    try:
        code = process.wait(10)
    except subprocess.TimeoutExpired:
        return f"worker process {process.pid} closed its pipe; use fewer workers, or 1"
    if code >= 0:
        return f"worker process {process.pid} ended with code {code}; use 1 worker to see why"
    cause = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return (
        f"worker process {process.pid} was ended by signal {-code} ({signal.strsignal(-code)}){cause}; use "
        "fewer workers, or 1"
    )


def _end(processes: list[subprocess.Popen[bytes]], threads: ThreadPoolExecutor) -> None:
    """Kills the workers, and waits until they and the threads that talk to them have ended."""
    for process in processes:
        process.kill()
    threads.shutdown(cancel_futures=True)
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # bytes that were not read
                pipe.close()  # type: ignore[union-attr]


def _pickle_function(function: Callable[..., Any]) -> bytes:
    """Pickles the function; refuses one that has no name in a module."""
    try:
        return pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"expected a function that can be pickled for worker processes, got {function!r} ({error}); "
            "define it and all that it uses in a module, or pass workers=1"
        ) from None


def _load(message: bytes) -> Callable[[Any], Any] | Exception:
    """Unpickles the function in a worker; returns the error of one that cannot be imported there."""
    try:
        return pickle.loads(message)
    except Exception as error:
        return TypeError(
            f"a worker process cannot load the function ({type(error).__name__}: {error}); define it and all "
            "that it uses in a module that can be imported, or pass workers=1"
        )


def _reply(function: Callable[[Any], Any] | Exception, message: bytes) -> bytes:
    """Computes a worker's reply to one item: (True, result) or (False, error), pickled."""
    try:
        if isinstance(function, Exception):
            raise function
        return pickle.dumps((True, function(pickle.loads(message))), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return _pickle_error(error)


def _pickle_error(error: Exception) -> bytes:
    """Pickles (False, error); an error that cannot be unpickled becomes a RuntimeError with its text."""
    with suppress(Exception):
        message = pickle.dumps((False, error))
        pickle.loads(message)
        return message
    return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _send(pipe: IO[bytes] | None, message: bytes) -> None:
    """Writes a message with its length before it."""
    assert pipe is not None
    pipe.write(len(message).to_bytes(HEADER, "little"))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes:
    """Reads a message; raises EOFError if the other side ended."""
    assert pipe is not None
    header = pipe.read(HEADER)
    message = pipe.read(int.from_bytes(header, "little")) if len(header) == HEADER else b""
    if len(header) < HEADER or len(message) < int.from_bytes(header, "little"):
        raise EOFError
    return message
