"""Starts jails, hears what comes out of them, and ends them: whatever they do, in bounded time and memory.

A jail is a fresh Python process that runs `start.main`. What it is to do goes in through a file; what it says
comes out through pipes, each read up to a bound. Several threads may have jails of their own at once.
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
NEEDED = (
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
)  # an interpreter may not start without; taken away before the program starts
SLOWEST_START = 60.0  # seconds
PATIENCE = 2.0  # seconds for a jail to let go when it is told to; then it is killed from outside
GLANCE = 0.1  # seconds between looks at what no pipe tells
CHUNK = 2**16


class SandboxMissingError(OSError):
    """Code that nobody has read was to be run, and the walls to run it behind do not stand here."""


class Limits(NamedTuple):
    """What a jail may use: bytes of memory, bytes of each output, bytes on its disk (which is memory too),
    seconds."""

    memory: int
    output: int
    disk: int
    timeout: float


class Jail(NamedTuple):
    """A jail that was started.

    Fields:
        process: its first process; the others die with it.
        walls: False if it has none, and is a plain process with limits.
        pipes: what is to be heard, by the names "control", "stdout", "stderr", "verdict"; "end" is no pipe,
            but becomes readable like one when the first process ends.
        heard: what was heard, by the same names.
    """

    process: subprocess.Popen[bytes]
    walls: bool
    pipes: Mapping[str, int]
    heard: Mapping[str, bytearray]


class Ending(NamedTuple):
    """How it went: why attending ended ("ended", "enough", "timeout", "output" or "start"), and how long it
    ran."""

    why: str
    seconds: float


def start(
    role: Mapping[str, Any],
    limits: Limits,
    *,
    walls: bool,
    given: Sequence[int] = (),
    hears: Mapping[str, int] = MappingProxyType({}),
    outputs: bool = False,
    folder: str = "/",
) -> Jail:
    """Starts a jail.

    Args:
        role: what to do, as `start.main` takes it.
        limits: of the jail.
        walls: False starts a plain process, with the limits only.
        given: descriptors of pipes which the role uses.
        hears: descriptors of pipes to be heard, by name; the jail's own from now on.
        outputs: True hears standard output and error; else they go nowhere.
        folder: the current folder of a jail without walls.

    Returns:
        A Jail, to be attended to and ended.

    Raises:
        SandboxMissingError: where there is no Linux, not even the limits.
    """
    if sys.platform != "linux":
        raise SandboxMissingError(f"sandbox: missing: Linux; this is {sys.platform}")
    names = ("control", *(("stdout", "stderr") if outputs else ()))
    with ExitStack() as undo, ExitStack() as done, tempfile.TemporaryFile() as file:
        for pipe in hears.values():
            undo.callback(os.close, pipe)
        ends = {name: os.pipe() for name in names}
        for read, write in ends.values():
            undo.callback(os.close, read)
            done.callback(os.close, write)
        setup = {
            **role,
            "walls": walls,
            "supervisor": os.getpid(),
            "control": ends["control"][1],
            "pipes": list(given),
            "memory": limits.memory,
            "disk": limits.disk,
            "seconds": int(limits.timeout) + 2,
        }
        file.write(json.dumps(setup).encode())
        file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-X", "utf8", "-c", START, FOLDER],
            stdin=file,
            stdout=ends["stdout"][1] if outputs else subprocess.DEVNULL,
            stderr=ends["stderr"][1] if outputs else subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0", **{name: os.environ[name] for name in NEEDED if name in os.environ}},
            cwd="/" if walls else folder,
            pass_fds=(ends["control"][1], *given),
            start_new_session=True,
        )
        undo.callback(process.wait)
        undo.callback(process.kill)
        pipes = {name: read for name, (read, _) in ends.items()} | {
            **hears,
            "end": os.pidfd_open(process.pid),
        }
        undo.pop_all()
    return Jail(process, walls, pipes, {name: bytearray() for name in pipes})


def attend(jails: Sequence[Jail], limits: Limits, enough: Callable[[], bool] = lambda: False) -> Ending:
    """Hears jails until they have ended or must end, and tells them to.

    Args:
        jails: that belong together.
        limits: the clock starts when all of them are ready.
        enough: asked again and again; True ends it.

    Returns:
        Ending(why, seconds). What was heard is in the jails.

    Steps:
        1. Hear them until all have ended, one says too much, it is enough, or the time is up.
        2. Tell them to end.
        3. Hear what is left. A jail that does not let go is left to `end`, which kills it.
    """
    with selectors.DefaultSelector() as selector:
        for jail in jails:
            for name, pipe in jail.pipes.items():
                selector.register(pipe, selectors.EVENT_READ, (jail, name))
        # 1. Hear.
        why, begun, due = "", 0.0, time.monotonic() + SLOWEST_START
        while not why:
            over = _hear(selector, limits.output, due)
            now = time.monotonic()
            if not begun and all(b"\n" in jail.heard["control"] for jail in jails):
                begun, due = now, now + limits.timeout
            if over:
                why = "output"
            elif enough():
                why = "enough"
            elif all(ended(jail) for jail in jails):
                why = "ended"
            elif now >= due:
                why = "timeout" if begun else "start"
        # 2. Tell.
        for jail in jails:
            _stop(jail)
        # 3. Hear the rest.
        due = now + PATIENCE
        while selector.get_map() and time.monotonic() < due:
            _hear(selector, limits.output, due)
    return Ending(why, now - begun if begun else 0.0)


def told(jail: Jail) -> dict[str, Any]:
    """Everything that the jail's own code has told: "ready" or "missing", "end" and "cpu"."""
    lines = bytes(jail.heard["control"]).split(b"\n")[:-1]
    return {key: value for line in lines for key, value in json.loads(line).items()}


def ended(jail: Jail) -> bool:
    """Tells whether the first process has ended. (It stays a zombie until `end`, so that its number stays its
    own.)"""
    process = jail.process
    done = process.returncode is not None
    return done or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end(jail: Jail) -> int:
    """Makes sure that nothing is left of a jail, and returns its first process's exit code."""
    if jail.process.returncode is None:
        if not jail.walls:
            _stop(jail)
        elif not ended(jail):
            jail.process.kill()  # and the kernel kills the others
        jail.process.wait()
        for pipe in jail.pipes.values():
            os.close(pipe)
    return jail.process.returncode


def _stop(jail: Jail) -> None:
    """Ends what is inside. A jail's first process does it when it is asked; without walls the whole group is
    killed."""
    if not jail.walls:
        os.killpg(jail.process.pid, signal.SIGKILL)
    elif not ended(jail):
        jail.process.terminate()


def _hear(selector: selectors.BaseSelector, bound: int, due: float) -> bool:
    """Waits a moment for something to hear, and hears it; True if somebody said more than the bound."""
    over = False
    for key, _ in selector.select(max(0.0, min(GLANCE, due - time.monotonic()))):
        jail, name = key.data
        chunk = b"" if name == "end" else os.read(key.fd, CHUNK)
        if not chunk:
            selector.unregister(key.fd)
            continue
        most = bound if name in ("stdout", "stderr") else CHUNK
        room = most - len(jail.heard[name])
        jail.heard[name].extend(chunk[:room])
        over = over or len(chunk) > room
    return over
