"""Runs programs that a language model wrote, which nobody has read: behind walls, or not at all.

A jail is a process with its own namespaces (it sees no file but Python's library, no network, no other
process), without any right, whose system calls are filtered, and whose time, memory, disk and output are
bounded. Linux only, by the kernel's own means; nothing has to be installed, and one need not be root.

    run      one program
    examine  a function and its tests, in two jails, so that the function cannot forge what the tests say
    probe    whether jails can be made here

`start` builds the walls, in their order.
"""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from stages.sandbox import outcome, supervisor
from stages.sandbox.outcome import Outcome
from stages.sandbox.supervisor import Jail, Limits, SandboxMissingError

FLAG = "--run_untrusted_code_without_isolation"
ADVICE = (
    "Programs that nobody has read run behind walls or not at all. Use Linux 5.12 or newer on x86_64 or aarch64, as "
    "root with CAP_SYS_ADMIN or where user namespaces are allowed (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; a container's own profiles of "
    f"seccomp and AppArmor may forbid them); or run them without walls, with all your rights, by {FLAG}"
)
PROBE = """
import os, socket, sys
def attempt(name, action):
    try:
        action()
    except OSError:
        return
    through.append(name)
through = []
attempt("files", lambda: open({secret!r}))
attempt("folders", lambda: os.listdir("/"))
attempt("writing", lambda: open("/tmp/../probe", "w"))
attempt("network", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
attempt("processes", lambda: os.kill({outside}, 0))
attempt("rights", lambda: os.setuid(0))
print(", ".join(through) or "closed")
"""
"""What the probe tries; it prints what got through."""
MIB = 2**20
TIMEOUT, MEMORY, OUTPUT, DISK = 3.0, 512 * MIB, MIB // 16, 16 * MIB


class Isolation(NamedTuple):
    """What `probe` found.

    Fields:
        complete: whether jails can be made here.
        line: the walls that stand, or what is missing; one line.
    """

    complete: bool
    line: str


def probe() -> Isolation:
    """Starts a jail and looks, from inside it, whether its walls stand.

    Every jail tries its own walls before it runs anything, and runs nothing if one does not stand. The probe
    asks once, before a long evaluation begins, and tries more: a secret file, a server on this machine, the
    process outside.

    Returns:
        Isolation(complete, line).
    """
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(folder, "secret")
        secret.write_text("secret")
        attempts = PROBE.format(secret=str(secret), port=server.getsockname()[1], outside=os.getpid())
        try:
            jail, found = _run(attempts, Limits(MEMORY, OUTPUT, DISK, 20.0), walls=True)
        except SandboxMissingError as error:
            return Isolation(False, str(error).split(". ")[0])
    if found.stdout.strip() != "closed":
        return Isolation(
            False, f"sandbox: missing: the walls let through: {found.stdout.strip()} ({found.reason})"
        )
    return Isolation(True, f"sandbox: {', '.join(supervisor.told(jail)['ready'])}")


def require(isolation: Isolation | None, *, unsafe: bool) -> None:
    """Refuses to go on where the walls are known to be missing, unless that is wanted.

    Args:
        isolation: what `probe` found; None is not known yet, and shows when a jail is made.
        unsafe: the user asked for running without walls.

    Raises:
        SandboxMissingError: if they are missing; it says what, what to do, and the flag.
    """
    if not unsafe and isolation is not None and not isolation.complete:
        raise SandboxMissingError(f"{isolation.line}. {ADVICE}")


def run(
    program: str,
    *,
    timeout: float = TIMEOUT,
    memory: int = MEMORY,
    output: int = OUTPUT,
    disk: int = DISK,
    isolation: Isolation | None = None,
    unsafe: bool = False,
) -> Outcome:
    """Runs a Python program in a jail of its own.

    It finds an empty current folder, an empty environment, an empty standard input, Python's standard
    library, and nothing else. It may use threads, but start no process. May be called from several threads at
    once.

    Args:
        program: source.
        timeout: seconds of the wall clock, from when the jail stands.
        memory: bytes of address space, at least 64 MiB, of which the interpreter itself takes half.
        output: bytes of standard output, and of standard error.
        disk: bytes of all files that it writes, and of each (in memory, beside `memory`).
        isolation: what `probe` found, if it was asked: an incomplete one is refused without a try.
        unsafe: True runs it without walls, with limits only: with your rights, your files and your network.

    Returns:
        Outcome. It has the program's word for it: a program can say and return what it likes, hence
            `examine`.

    Raises:
        SandboxMissingError: if the jail cannot be made, and `unsafe` is not set. Nothing was run.
        ValueError: if a limit is none.

    Example:
        >>> import pytest; _ = probe().complete or pytest.skip("no sandbox")
        >>> run("print(sum(range(5)))").stdout
        '10\\n'
        >>> run("open('/etc/passwd')").reason
        "raised FileNotFoundError: [Errno 2] No such file or directory: '/etc/passwd'"
    """
    require(isolation, unsafe=unsafe)
    return _run(program, _limits(memory, output, disk, timeout), walls=not unsafe)[1]


def examine(
    candidate: str,
    tests: str,
    *,
    prelude: str = "",
    entry_point: str,
    timeout: float = TIMEOUT,
    memory: int = MEMORY,
    disk: int = DISK,
    isolation: Isolation | None = None,
    unsafe: bool = False,
) -> Outcome:
    """Tests a function that a model wrote, in two jails: its source in one, the tests in the other.

    In one process a candidate can reach what judges it, and have every test pass. Here the tests call a
    stand-in, which sends the arguments to the candidate's jail and gets back a plain value, or an error.

    Args:
        candidate: source that defines the function.
        tests: source that defines `check(candidate)`, which raises if the function is wrong.
        prelude: source that the tests may need as well, such as functions which the task gives; a definition
            of the function itself in it is replaced by the stand-in.
        entry_point: the function's name.
        timeout: seconds for loading and all tests, from when both jails stand.
        memory: bytes of address space, of each jail.
        disk: bytes of files, of each jail.
        isolation: what `probe` found, as in `run`.
        unsafe: True runs both without walls, as in `run`; they stay two processes.

    Returns:
        Outcome; status "ok" only if `check` returned. What the candidate prints goes nowhere.

    Edge cases: the function gets copies of its arguments, so that tests cannot see what it does to them. With
    `unsafe`
        both run as the same user, and a candidate can reach its tests: a pass can then be forged.

    Raises:
        SandboxMissingError, ValueError: as `run`.

    Example:
        >>> import pytest; _ = probe().complete or pytest.skip("no sandbox")
        >>> tests = "def check(f):\\n    assert f(2) == 4"
        >>> examine("def double(x): return x + x", tests, entry_point="double").status
        'ok'
        >>> examine("def double(x): return x + 1", tests, entry_point="double").reason
        'wrong answer: line 2 of the tests: assert f(2) == 4'
    """
    require(isolation, unsafe=unsafe)
    limits = _limits(memory, OUTPUT, disk, timeout)
    with ExitStack() as after, ExitStack() as given:
        folder = after.enter_context(tempfile.TemporaryDirectory()) if unsafe else "/"
        (asked, asks), (answered, answers), (verdict, gives) = os.pipe(), os.pipe(), os.pipe()
        for pipe in (asked, asks, answered, answers, gives):
            given.callback(os.close, pipe)
        role: dict[str, Any] = {
            "role": "tests",
            "prelude": prelude,
            "tests": tests,
            "entry_point": entry_point,
        }
        role |= {"requests": asks, "answers": answered, "verdict": gives}
        hears = {"verdict": verdict}
        judge = supervisor.start(
            role, limits, walls=not unsafe, given=(asks, answered, gives), hears=hears, folder=folder
        )
        after.callback(supervisor.end, judge)
        role = {"role": "candidate", "candidate": candidate, "entry_point": entry_point}
        role |= {"requests": asked, "answers": answers}
        judged = supervisor.start(role, limits, walls=not unsafe, given=(asked, answers), folder=folder)
        after.callback(supervisor.end, judged)
        given.close()
        ending = supervisor.attend((judge, judged), limits, lambda: b"\n" in judge.heard["verdict"])
        codes = supervisor.end(judge), supervisor.end(judged)
    for jail in (judge, judged):
        _stands(jail, ending.why)
    return outcome.of_tests(judge, judged, codes, ending, limits)


def _limits(memory: int, output: int, disk: int, timeout: float) -> Limits:
    """Limits, if they are any: a file system in memory takes a size of 0 for no bound at all."""
    if memory < 64 * MIB or output < 1 or disk < 1 or not 0 < timeout < float("inf"):
        raise ValueError(
            f"sandbox: expected memory of at least {64 * MIB} bytes, and a positive output, disk and timeout, got "
            f"{memory=}, {output=}, {disk=}, {timeout=}"
        )
    return Limits(memory, output, disk, timeout)


def _run(program: str, limits: Limits, *, walls: bool) -> tuple[Jail, Outcome]:
    """Runs a program; the jail that was, and what came of it."""
    with ExitStack() as after:
        folder = "/" if walls else after.enter_context(tempfile.TemporaryDirectory())
        role = {"role": "program", "program": program}
        jail = supervisor.start(role, limits, walls=walls, outputs=True, folder=folder)
        after.callback(supervisor.end, jail)
        ending = supervisor.attend((jail,), limits)
        code = supervisor.end(jail)
    _stands(jail, ending.why)
    return jail, outcome.of_program(jail, code, ending, limits)


def _stands(jail: Jail, why: str) -> None:
    """Raises if a jail could not be made. Nothing was run in it then."""
    told = supervisor.told(jail)
    if "ready" not in told:
        late = (
            f"it did not start within {supervisor.SLOWEST_START:g} s"
            if why == "start"
            else "it ended at once"
        )
        errors = bytes(jail.heard.get("stderr", b"")).decode(errors="replace").strip().splitlines()
        missing = told.get("missing", ": ".join([late, *errors[-1:]]))
        raise SandboxMissingError(f"sandbox: missing: {missing}. {ADVICE}")
