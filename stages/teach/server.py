"""A process that has imported torch and pytest, and forks one worker for each check.

It is started by `grader`: `python -m stages.teach.server`. A line of JSON on its standard input asks for a
check; a line on its output says that it is ready, that a worker began, or how it ended. It imports nothing of
the course, so that each worker imports the learner's functions afresh. When its input closes, or at SIGTERM,
it kills its worker and ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from stages.sandbox import kernel, landlock

PRELOADED = (
    "torch.func",
    "torch.utils._python_dispatch",
    "numpy",
    "optree",
    "pytest",
    "regex",
    "stages.teach.worker",
    "stages.teach.suite_run",
)
"""Modules that every worker needs, and that take seconds to import."""

COMPILER = "torch._dynamo"
"""The compiler of torch, which takes as long to import as torch itself.

A call on the device "meta", among others, imports it. That changes the process, which an answer may not.
"""

WITHOUT_COMPILER = 75
"""Exit status of a check that failed after its answer had the compiler imported: it runs again with it."""

TICK = 0.02
"""Seconds between two looks at a worker and at the input."""


def serve() -> None:
    """Answers requests until the input closes, which ends the process."""
    workers: list[int] = []
    signal.signal(signal.SIGTERM, partial(_end, workers))
    gc.disable()  # imports leave nothing to collect, and many objects to look through
    _import_all(PRELOADED)
    while True:
        _say({"ready": True})
        line = _read_line()
        if not line:
            os._exit(0)
        request = json.loads(line)
        _import_all(request["libraries"])
        child = os.fork()
        if child == 0:
            _become_worker(request)
        workers[:] = [child]
        _say({"pid": child})
        status = _wait(child)
        workers.clear()
        _say({"status": status})


def _import_all(names: Sequence[str]) -> None:
    """Imports modules, whose objects the workers neither collect nor look through."""
    for name in names:
        importlib.import_module(name)
    gc.freeze()


def _wait(child: int) -> int:
    """Waits for a worker; kills it, and ends, if the input closes before."""
    while True:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            kill_group(child)
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([0], [], [], TICK)
        if readable:  # the parent sends nothing while a check runs
            kill_group(child)
            os._exit(0)


def kill_group(leader: int) -> None:
    """Kills a worker and all processes of its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _become_worker(request: dict[str, Any]) -> None:
    """Checks an exercise in the forked process, writes the result, and ends the process."""
    code = 1
    gc.enable()
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        scratch = Path(request["scratch"])
        null = os.open(os.devnull, os.O_RDONLY)
        output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.chdir(scratch / "work")
        _limit(request["megabytes"])
        _confine(scratch)
        _run(request, scratch)
        code = 0
    except BaseException as error:
        with suppress(BaseException):
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def _run(request: dict[str, Any], scratch: Path) -> None:
    """Runs the check and writes its result beside its progress."""
    from stages.teach.course import Exercise
    from stages.teach.report import to_json
    from stages.teach.worker import Request, check_exercise, measure_speed

    stage = os.open(scratch / "stage", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def announce(name: str) -> None:
        os.pwrite(stage, name.encode("utf8")[:200].ljust(200), 0)

    work = str(scratch / "work")
    asked = Request(
        request["folder"], Exercise(*request["exercise"]), request["tests"], request["suite"], work
    )
    function = measure_speed if request["speed"] else check_exercise
    start, had_compiler = time.monotonic(), _has_compiler()
    result = function(asked, announce)._replace(seconds=time.monotonic() - start)
    if not result.passed and _has_compiler() and not had_compiler:
        os._exit(WITHOUT_COMPILER)
    written = scratch / "result.part"
    written.write_text(to_json(result), "utf8")
    written.rename(scratch / "result")


def _has_compiler() -> bool:
    """Tells whether the compiler is imported, or parts of it, where the import was refused."""
    return any(name.startswith(COMPILER) for name in sys.modules)


def _limit(megabytes: int) -> None:
    """Limits the memory that this process may still allocate, its core dumps and the size of its files."""
    size = megabytes * 2**20
    used = 0
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        used = 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    for kind, limit in (
        (resource.RLIMIT_DATA, used + size if used else resource.RLIM_INFINITY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 64 * 2**20),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


def _read_line() -> bytes:
    """Reads a line of the input, and nothing after it: `_wait` looks for its end."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return bytes(line)


def _confine(scratch: Path) -> None:
    """Lets this process write below one folder only, and start no program, where the kernel has Landlock.

    Temporary files and torch's caches go there. Without Landlock the audit of Python's own functions remains.
    """
    tempfile.tempdir = str(scratch / "work")
    os.environ.update(
        TMPDIR=str(scratch / "work"), TORCHINDUCTOR_CACHE_DIR=str(scratch / "work" / "inductor")
    )
    devices = [path for path in ("/dev/null", "/dev/urandom", "/dev/zero") if os.path.exists(path)]
    with suppress(OSError, AttributeError, KeyError, NotImplementedError):
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(["/"], devices, str(scratch))


def _say(message: dict[str, Any]) -> None:
    """Writes a line to the parent; if it is gone, the input is closed too, which ends the server."""
    with suppress(BrokenPipeError):
        os.write(1, (json.dumps(message) + "\n").encode("utf8"))


def _end(workers: list[int], number: int, frame: FrameType | None) -> None:
    """Ends the worker and the server at a signal, at once: torch would import more to print a log."""
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)  # it may not have a group of its own yet
        kill_group(worker)
    os._exit(128 + number)


if __name__ == "__main__":
    serve()
