"""Words that processes leave in a folder: each says when it has written, and the first one waits for all.

    STEP.tmp/NAME.json    a process's word, written when its part is on the disk
    STEP.tmp/NAME.failed  instead, if it could not write
    STEP.tmp/NAME.lock    locked while it writes; free if it was killed

No collective is made, so that all of it can run in threads beside the training.
"""

from __future__ import annotations

import errno
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes.digest import hash_json
from data_pipes.files import write_atomically

PATIENCE = 600.0
"""Seconds in which a part does not grow, after which its process counts as stuck."""
CLOSING = 5.0
"""The same where a run ends by an error, unless the process is known to be alive."""
_POLL = 0.02  # seconds between two looks at a folder
_VISIBLE = 60.0  # seconds after which a network file system shows what another machine wrote
_VISIBLE_CLOSING = 1.0  # the same where a run ends by an error


class Wait(NamedTuple):
    """Events that shorten a wait.

    Fields:
        stop: set when another process has failed; ends the wait.
        closing: set when the run ends by an error, which another process may have died of.
    """

    stop: threading.Event
    closing: threading.Event


def make_wait() -> Wait:
    """Makes a Wait whose events are not set."""
    return Wait(threading.Event(), threading.Event())


def leave_word(folder: Path, name: str, token: str, wait: Wait, write: Callable[[], Any]) -> None:
    """Writes this process's part, then its word.

    Args:
        folder: the temporary folder, which exists.
        name: of the part, different on each process.
        token: name of this save, the same on all processes.
        wait: shortens the wait for the folder, which the first process removes if it fails.
        write: writes the part, and returns JSON for the first process.

    Raises:
        OSError: if the disk refuses, or this process does not see the folder; whatever `write` raises.
    """
    _await_folder(folder, wait)
    with _locked(folder / f"{name}.lock"):
        try:
            body = {"save": token, "word": write()}
            body["sha256"] = hash_json(body)
            write_atomically(folder / f"{name}.json", json.dumps(body).encode())
        except BaseException:
            with suppress(OSError):
                (folder / f"{name}.failed").touch()
            raise


def await_words(folder: Path, parts: list[tuple[str, Path]], token: str, wait: Wait) -> list[Any]:
    """Waits for the words of all processes, and removes their files.

    Args:
        folder: the temporary folder.
        parts: (name, the file that its process writes) by rank.
        token: as in `leave_word`.
        wait: shortens it.

    Returns:
        The words, by rank.

    Raises:
        OSError: if a process ended or failed before its part was complete, or its file does not grow for
            PATIENCE seconds; the message has its rank.
    """
    words = [_await_word(folder, rank, name, file, token, wait) for rank, (name, file) in enumerate(parts)]
    for name, _ in parts:
        for suffix in (".json", ".lock"):
            with suppress(FileNotFoundError):
                (folder / f"{name}{suffix}").unlink()
    return words


def _await_folder(folder: Path, wait: Wait) -> None:
    """Waits until this process sees the folder that the first one made."""
    start = time.monotonic()
    while not folder.is_dir():
        ends = not threading.main_thread().is_alive()  # by an error that came as the save began
        shortened = ends or wait.closing.is_set() or wait.stop.is_set()
        if time.monotonic() - start > (_VISIBLE_CLOSING if shortened else _VISIBLE):
            raise OSError(
                errno.ENOENT,
                f"the first process has made {folder}, which this one does not see; choose a folder on a "
                "file system that all share",
            )
        time.sleep(_POLL)


def _await_word(folder: Path, rank: int, name: str, file: Path, token: str, wait: Wait) -> Any:
    """Waits for one word."""
    length, since, ended_at = -1, time.monotonic(), math.inf
    while True:
        ended = _has_ended(folder / f"{name}.lock")
        found, word = _read_word(folder / f"{name}.json", token)
        if found:
            return word
        if wait.stop.is_set() or (folder / f"{name}.failed").exists():
            raise OSError(errno.ECANCELED, "another process could not write its part")
        ended_at = min(ended_at, time.monotonic()) if ended else math.inf
        if time.monotonic() - ended_at > (_VISIBLE_CLOSING if wait.closing.is_set() else _VISIBLE):
            raise OSError(errno.ECANCELED, f"process {rank} ended before {file.name} was complete")
        now = _length(file)
        if now != length:
            length, since = now, time.monotonic()
        patience = CLOSING if wait.closing.is_set() and ended is None else PATIENCE
        if time.monotonic() - since > patience:
            raise OSError(
                errno.ETIMEDOUT, f"process {rank} has written nothing to {file.name} for {patience:.0f} s"
            )
        wait.stop.wait(_POLL)


def _read_word(path: Path, token: str) -> tuple[bool, Any]:
    """(True, a word of this save), or (False, None) if it is not there yet."""
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        return False, None
    digest = body.pop("sha256", None)
    if digest != hash_json(body) or body.get("save") != token:
        raise OSError(errno.EIO, f"{path.name} belongs to another save, or is damaged")
    return True, body["word"]


def _length(path: Path) -> int:
    """Length of a file; -1 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Locks a file while the block runs; the system unlocks it if this process is killed."""
    with path.open("xb") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"locked")
            file.flush()
        except (ImportError, OSError):  # a system without locks: the length of the part tells
            pass
        yield


def _has_ended(path: Path) -> bool | None:
    """Tells if the process that locks a file has ended; None if the file system does not tell."""
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
