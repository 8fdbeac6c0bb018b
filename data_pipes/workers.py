"""Map a function over a stream in several processes; the results come in the order of the stream.

A worker is a new Python process that imports only what the function needs. It is no fork: a process that has
loaded torch runs threads, and a fork of it may hang. Nor does it import the caller's main module, as
multiprocessing's "spawn" would, and torch with it: it begins in a quarter of a second.
"""

from __future__ import annotations

import math
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
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from data_pipes.worker_process import receive, send

Item = TypeVar("Item")
Result = TypeVar("Result")

Pending = tuple[Any, "Future[Any] | None"]
"""An item that was read, and its result to come; None for the Failure that ends the stream."""

FEW = 4
"""With workers=None so many items, or fewer, are computed in this process: starting others takes as long."""

CGROUP = Path("/sys/fs/cgroup")
"""Folder of the control group of a container, which may limit its cores."""


class Failure(NamedTuple):
    """The error that ended the stream of items; it is raised after the results of the items before it."""

    error: Exception


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = 1,
    *,
    cores: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Computes `function` of each item in worker processes, and yields items with their results, in order.

    The results are those of one process, bit for bit, if the function is pure: which worker computes an item
    changes nothing. It may keep a cache, of which each worker has its own copy.

    Args:
        function: picklable: a function of a module (not of the main script), or a partial of one.
        items: picklable; read in order, at most 2 · workers + 2 ahead of the item that is yielded. An item
            should take longer to compute than to pickle, such as a few million characters of text.
        workers: number of processes, >= 1. 1 computes in this process, and reads nothing ahead; None takes
            `cores`, or 1 for at most FEW items.
        cores: cores for this process; None takes `usable_cores()`.

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
    return _map(function, items, workers, cores)


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
    """Counts the cores that this process may use: its affinity, or fewer if its container has a limit."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(cores, _read_limit(CGROUP))))


def _read_limit(folder: Path) -> float:
    """Number of cores that a control group grants, of version 2 or 1; infinity without a limit."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota_us, period_us = (int((folder / "cpu" / name).read_text()) for name in names)
        return quota_us / period_us if quota_us > 0 else math.inf
    return math.inf


def _map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None, cores: int | None
) -> Iterator[tuple[Item, Result]]:
    """`map_in_order`, its argument checked: chooses between this process and others."""
    source = _catch_failure(items)
    if workers is None:
        head = list(islice(source, FEW + 1))
        source = chain(head, source)
        workers = (cores or usable_cores()) if len(head) > FEW else 1
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
    """Starts a worker. It has a session of its own, so that Ctrl-C reaches only this process.

    It finds modules as this process does: with the same path, and with those import finders of this process
    that have a `startup`, a statement that installs them.
    """
    path = [entry for entry in sys.path if isinstance(entry, str)]
    finders = "".join(f"{finder.startup}; " for finder in sys.meta_path if hasattr(finder, "startup"))
    serve = "from data_pipes.worker_process import serve; serve()"
    code = f"import sys; sys.path[:] = {path!r}; {finders}{serve}"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, start_new_session=True)


def _send_function(
    process: subprocess.Popen[bytes], message: bytes, idle: SimpleQueue[subprocess.Popen[bytes]]
) -> None:
    """Sends the function to a worker once it has begun. One that ended is found when it gets an item."""
    try:
        with suppress(OSError):
            send(process.stdin, message)
    finally:
        idle.put(process)


def _compute(idle: SimpleQueue[subprocess.Popen[bytes]], item: Any) -> Any:
    """Has an idle worker compute an item; returns the result, or raises the error that it sent."""
    message = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
    process = idle.get()
    try:
        send(process.stdin, message)
        reply = receive(process.stdout)
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
