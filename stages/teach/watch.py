"""Check again whenever a learner saves a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stages.teach.course import Exercise
from stages.teach.files import find_answer
from stages.teach.grader import Server, check
from stages.teach.report import Result

POLL = 0.1
"""Seconds between two looks at the files."""

Stamp = tuple[int, int, int]
"""Time of change in nanoseconds, bytes and inode of a file; zeros if there is none."""


def watch(
    folder: Path,
    exercises: Sequence[Exercise],
    server: Server,
    *,
    pause: Callable[[], None] = lambda: time.sleep(POLL),
) -> Iterator[Result]:
    """Yields the results of all exercises, then of those whose file was saved, without end.

    Args:
        folder: the edition.
        exercises: to check.
        server: that forks the workers.
        pause: waits between two looks at the files.

    Returns:
        An iterator over results. A file that is being written is checked once two looks show the same.
    """
    seen = {exercise.module: read_stamp(find_answer(folder, exercise.module)) for exercise in exercises}
    for exercise in exercises:
        yield check(folder, exercise, server)
    pending: dict[str, Stamp] = {}
    while True:
        pause()
        for module in seen:
            stamp = read_stamp(find_answer(folder, module))
            if stamp == seen[module] and module not in pending:
                continue
            if pending.get(module) != stamp:
                pending[module] = stamp
                continue
            del pending[module]
            seen[module] = stamp
            for exercise in exercises:
                if exercise.module == module:
                    yield check(folder, exercise, server)


def read_stamp(path: Path) -> Stamp:
    """Reads what changes when a file is saved."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
