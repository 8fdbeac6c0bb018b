"""Record when each session of a run began and why it ended, in sessions.jsonl.

A session is one call of the command; a run that is resumed has several. Each has a line at its start and one
at its end, which is missing if the process was killed. Nothing reads them to train.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

NAME = "sessions.jsonl"


class Session(NamedTuple):
    """One session of a run.

    Fields:
        started: seconds since 1970.
        seconds: its length; None if it has not ended, or was killed.
        status: "complete", "early", "interrupted", "failed", or "" without an end.
        step: last step; 0 without an end, or if it failed.
        reason: the signal or the error that ended it; "" if there was none.
    """

    started: float
    seconds: float | None = None
    status: str = ""
    step: int = 0
    reason: str = ""


@contextmanager
def record_session(folder: Path, say: Callable[[str], Any]) -> Iterator[Callable[[str, int, str], None]]:
    """Writes a line now, and one when the block ends.

    Args:
        folder: of the run.
        say: prints a warning if a line could not be written, which does not end the run.

    Yields:
        (status, step, reason) -> None; notes what the line at the end says. Without it the session failed.

    Edge cases: an error of the block is noted as the reason, and raised.
    """
    started = time.time()
    noted = ["failed", 0, ""]
    _append(folder / NAME, {"started": started}, say)
    try:
        yield lambda status, step, reason: noted.__setitem__(slice(None), [status, step, reason])
    except BaseException as error:
        noted[2] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise
    finally:
        status, step, reason = noted
        line = {"seconds": time.time() - started, "status": status, "step": step, "reason": reason}
        _append(folder / NAME, line, say)


def read_sessions(folder: Path) -> list[Session]:
    """Reads the sessions of a run, in their order; [] without a record. A damaged line is left out."""
    path, sessions = folder / NAME, list[Session]()
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            fields = json.loads(line)
            if "started" in fields:
                sessions.append(Session(float(fields["started"])))
            elif sessions:
                end = (float(fields["seconds"]), str(fields["status"]), int(fields["step"]))
                sessions[-1] = Session(sessions[-1].started, *end, str(fields["reason"]))
        except (ValueError, TypeError, KeyError):
            continue
    return sessions


def _append(path: Path, fields: dict[str, Any], say: Callable[[str], Any]) -> None:
    """Appends a line; a last line that was cut off is ended first, so that it damages no other."""
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write((json.dumps(fields) + "\n").encode())
    except OSError as error:
        say(f"warning: {path} was not written ({error.strerror}); the run is not affected")
