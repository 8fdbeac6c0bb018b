"""Start jails, capture their output, and end them, in bounded time and memory whatever they do.

A jail is a new Python process that runs `start.main`. Its role goes in through a file; its output comes out
through pipes, each read up to a limit. Thread-safe: several threads may run jails at once.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

START = """
import sys
sys.path[:] = [path for path in sys.path if path]  # not the current folder
for name in ("stages", "stages.sandbox"):  # our packages without their contents, which would import torch
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [sys.argv[1]]
from stages.sandbox import start
start.main()
"""
FOLDER = str(Path(__file__).resolve().parent)
# Variables without which an interpreter may not start; removed before the program starts.
NEEDED = ("LD_LIBRARY_PATH", "PYTHONHOME")
START_TIMEOUT = 60.0  # seconds for all jails to be ready
GRACE = 2.0  # seconds for a jail to end after SIGTERM; then it is killed
POLL = 0.1  # seconds between checks of what no pipe signals
CHUNK = 2**16


class SandboxMissingError(OSError):
    """Raised when untrusted code was to be run and this machine cannot isolate it."""


class Limits(NamedTuple):
    """Limits of a jail: bytes of memory, of each output, and on disk (a file system in memory); seconds."""

    memory: int
    output: int
    disk: int
    timeout: float


class Jail(NamedTuple):
    """A jail that was started.

    Fields:
        process: its first process; the kernel kills the others with it.
        isolated: False for a plain process with limits only.
        pipes: descriptors to read, by the names "control", "stdout", "stderr", "verdict"; "end" is no pipe,
            but becomes readable like one when the first process ends.
        captured: what was read, by the same names.
    """

    process: subprocess.Popen[bytes]
    isolated: bool
    pipes: Mapping[str, int]
    captured: Mapping[str, bytearray]


class Ending(NamedTuple):
    """Cause of the end, and run time.

    Fields:
        cause: "ended" (all jails by themselves), "enough" (the caller's condition), "timeout", "output" (too
            much), or "start" (not ready in time).
        seconds: run time since all jails were ready.
    """

    cause: str
    seconds: float


def start_jail(
    role: Mapping[str, Any],
    limits: Limits,
    *,
    isolated: bool,
    inherited: Sequence[int] = (),
    extra_pipes: Mapping[str, int] = MappingProxyType({}),
    capture: bool = False,
    folder: str = "/",
) -> Jail:
    """Start a jail.

    Args:
        role: what the jail runs, as `start.main` takes it.
        limits: limits of the jail.
        isolated: False starts a plain process, with the limits only.
        inherited: descriptors of pipes that the role uses.
        extra_pipes: descriptors of further pipes to read, by name; the jail closes them from now on.
        capture: True captures standard output and error; else they are discarded.
        folder: the current folder of a jail that is not isolated.

    Returns:
        A Jail, for `supervise` and `end_jail`.

    Raises:
        SandboxMissingError: on a system other than Linux, where not even the limits can be set.
    """
    if sys.platform != "linux":
        raise SandboxMissingError(f"sandbox: missing: Linux; this is {sys.platform}")
    names = ("control", "stdout", "stderr") if capture else ("control",)
    with ExitStack() as on_failure, ExitStack() as on_exit, tempfile.TemporaryFile() as file:
        for pipe in extra_pipes.values():
            on_failure.callback(os.close, pipe)
        ends = {name: os.pipe() for name in names}
        for read, write in ends.values():
            on_failure.callback(os.close, read)
            on_exit.callback(os.close, write)
        setup = {
            **role,
            "isolated": isolated,
            "supervisor": os.getpid(),
            "control": ends["control"][1],
            "pipes": list(inherited),
            "memory": limits.memory,
            "disk": limits.disk,
            "seconds": int(limits.timeout) + 2,
        }
        file.write(json.dumps(setup).encode())
        file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-X", "utf8", "-c", START, FOLDER],
            stdin=file,
            stdout=ends["stdout"][1] if capture else subprocess.DEVNULL,
            stderr=ends["stderr"][1] if capture else subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0", **{name: os.environ[name] for name in NEEDED if name in os.environ}},
            cwd="/" if isolated else folder,
            pass_fds=(ends["control"][1], *inherited),
            start_new_session=True,
        )
        on_failure.callback(process.wait)
        on_failure.callback(process.kill)
        pipes = {name: read for name, (read, _) in ends.items()}
        pipes |= {**extra_pipes, "end": os.pidfd_open(process.pid)}
        on_failure.pop_all()
    return Jail(process, isolated, pipes, {name: bytearray() for name in pipes})


def supervise(jails: Sequence[Jail], limits: Limits, enough: Callable[[], bool] = lambda: False) -> Ending:
    """Read the output of jails until they have ended or must end, and end them.

    Args:
        jails: jails that end together.
        limits: the clock starts when all jails are ready.
        enough: polled; True ends the jails.

    Returns:
        Ending(cause, seconds). The output is in the jails' `captured`.

    Steps:
        1. Read until all jails have ended, one exceeds its output, `enough` is true, or the time is up.
        2. Send SIGTERM.
        3. Read what is left. A jail that does not end is left to `end_jail`, which kills it.
    """
    with selectors.DefaultSelector() as selector:
        for jail in jails:
            for name, pipe in jail.pipes.items():
                selector.register(pipe, selectors.EVENT_READ, (jail, name))
        # 1. Read.
        cause, started, deadline = "", 0.0, time.monotonic() + START_TIMEOUT
        while not cause:
            exceeded = _read_ready(selector, limits.output, deadline)
            now = time.monotonic()
            if not started and all(b"\n" in jail.captured["control"] for jail in jails):
                started, deadline = now, now + limits.timeout
            if exceeded:
                cause = "output"
            elif enough():
                cause = "enough"
            elif all(has_ended(jail) for jail in jails):
                cause = "ended"
            elif now >= deadline:
                cause = "timeout" if started else "start"
        # 2. Send SIGTERM.
        for jail in jails:
            _stop(jail)
        # 3. Read the rest.
        deadline = now + GRACE
        while selector.get_map() and time.monotonic() < deadline:
            _read_ready(selector, limits.output, deadline)
    return Ending(cause, now - started if started else 0.0)


def read_control(jail: Jail) -> dict[str, Any]:
    """Parse the messages of the jail's own code: "ready" or "missing", then "end" and "cpu"."""
    lines = bytes(jail.captured["control"]).split(b"\n")[:-1]
    return {key: value for line in lines for key, value in json.loads(line).items()}


def has_ended(jail: Jail) -> bool:
    """Test whether the first process has ended (it stays a zombie until `end_jail`, which keeps its pid)."""
    process = jail.process
    is_reaped = process.returncode is not None
    return is_reaped or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_jail(jail: Jail) -> int:
    """End every process of a jail, close its pipes, and return its first process's exit code."""
    if jail.process.returncode is None:
        if not jail.isolated:
            _stop(jail)
        elif not has_ended(jail):
            jail.process.kill()  # and the kernel kills the others
        jail.process.wait()
        for pipe in jail.pipes.values():
            os.close(pipe)
    return jail.process.returncode


def _stop(jail: Jail) -> None:
    """Send SIGTERM to the first process, which kills its child; without isolation kill the process group."""
    if not jail.isolated:
        os.killpg(jail.process.pid, signal.SIGKILL)
    elif not has_ended(jail):
        jail.process.terminate()


def _read_ready(selector: selectors.BaseSelector, limit: int, deadline: float) -> bool:
    """Wait at most POLL seconds for output and read it; True if an output exceeds its limit."""
    exceeded = False
    for key, _ in selector.select(max(0.0, min(POLL, deadline - time.monotonic()))):
        jail, name = key.data
        chunk = b"" if name == "end" else os.read(key.fd, CHUNK)
        if not chunk:
            selector.unregister(key.fd)
            continue
        allowed = limit if name in ("stdout", "stderr") else CHUNK
        room = allowed - len(jail.captured[name])
        jail.captured[name].extend(chunk[:room])
        exceeded = exceeded or len(chunk) > room
    return exceeded
