"""Run untrusted programs, such as those that a language model wrote, in jails.

A jail is a process with its own namespaces (it sees no file but Python's library, no network, no other
process), without any privilege, whose system calls are filtered, and whose time, memory, disk and output are
limited. Linux only, by the kernel's own mechanisms; nothing has to be installed, and root is not needed.

    run_program  run one program in one jail
    run_tests    run a function and its tests in two jails, so that the function cannot forge the verdict
    probe        check whether jails can be made on this machine

`start` builds a jail; the package's docstring has the reading order.
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
    "Untrusted programs run isolated or not at all. Use Linux 5.12 or newer on x86_64 or aarch64, as root "
    "with CAP_SYS_ADMIN or where user namespaces are allowed (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; a container's own "
    f"seccomp and AppArmor profiles may forbid them); or run them without isolation, with all your "
    f"privileges, by {FLAG}"
)
PROBE = """
import os, socket, sys
def attempt(name, action):
    try:
        action()
    except OSError:
        return
    reached.append(name)
reached = []
attempt("files", lambda: open({secret!r}))
attempt("folders", lambda: os.listdir("/"))
attempt("writing", lambda: open("/tmp/../probe", "w"))
attempt("network", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
attempt("processes", lambda: os.kill({outside}, 0))
attempt("privileges", lambda: os.setuid(0))
print(", ".join(reached) or "isolated")
"""
"""Program of the probe: tries to reach what is outside, and prints what it reached."""
MIB = 2**20
TIMEOUT, MEMORY, OUTPUT, DISK = 3.0, 512 * MIB, MIB // 16, 16 * MIB


class Isolation(NamedTuple):
    """Result of `probe`.

    Fields:
        complete: whether jails can be made here.
        line: the isolation layers in place, or what is missing; one line.
    """

    complete: bool
    line: str


def probe() -> Isolation:
    """Start a jail and test from inside it that it is isolated.

    Every jail tests its own isolation before it runs anything, and runs nothing if a test fails. The probe
    runs once, before a long evaluation, and tests more: a secret file, a server on this machine, the
    process outside.

    Returns:
        Isolation(complete, line).
    """
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(folder, "secret")
        secret.write_text("secret")
        program = PROBE.format(secret=str(secret), port=server.getsockname()[1], outside=os.getpid())
        try:
            jail, result = _run(program, Limits(MEMORY, OUTPUT, DISK, 20.0), isolated=True)
        except SandboxMissingError as error:
            return Isolation(False, str(error).split(". ")[0])
    reached = result.stdout.strip()
    if reached != "isolated":
        return Isolation(False, f"sandbox: missing: the jail does not block: {reached} ({result.reason})")
    return Isolation(True, f"sandbox: {', '.join(supervisor.read_control(jail)['ready'])}")


def require_isolation(isolation: Isolation | None, *, unsafe: bool) -> None:
    """Raise if jails are known to be impossible here, unless the user asked to run without isolation.

    Args:
        isolation: result of `probe`; None if not probed yet: then making a jail raises if it is impossible.
        unsafe: the user asked to run without isolation.

    Raises:
        SandboxMissingError: if isolation is incomplete; says what is missing, what to do, and the flag.
    """
    if not unsafe and isolation is not None and not isolation.complete:
        raise SandboxMissingError(f"{isolation.line}. {ADVICE}")


def run_program(
    program: str,
    *,
    timeout: float = TIMEOUT,
    memory: int = MEMORY,
    output: int = OUTPUT,
    disk: int = DISK,
    isolation: Isolation | None = None,
    unsafe: bool = False,
) -> Outcome:
    """Run a Python program in a jail.

    The program has an empty current folder, an empty environment, an empty standard input, Python's standard
    library, and nothing else. It may use threads, but start no process. Thread-safe.

    Args:
        program: source.
        timeout: seconds of wall-clock time, from when the jail is ready.
        memory: bytes of address space, at least 64 MiB; the interpreter itself takes half of that minimum.
        output: bytes of standard output, and as many of standard error.
        disk: bytes of all files that it writes together, and of each (in memory, in addition to `memory`).
        isolation: result of `probe`, if known: an incomplete one is refused at once.
        unsafe: True runs it without isolation, with limits only: with your privileges, files and network.

    Returns:
        Outcome, as the program reports it: it can print and return what it likes, hence `run_tests`.

    Raises:
        SandboxMissingError: if the jail cannot be made, and `unsafe` is not set. Nothing was run.
        ValueError: if a limit is out of range.

    Example:
        >>> import pytest; _ = probe().complete or pytest.skip("no sandbox")
        >>> run_program("print(sum(range(5)))").stdout
        '10\\n'
        >>> run_program("open('/etc/passwd')").reason
        "raised FileNotFoundError: [Errno 2] No such file or directory: '/etc/passwd'"
    """
    require_isolation(isolation, unsafe=unsafe)
    return _run(program, _check_limits(memory, output, disk, timeout), isolated=not unsafe)[1]


def run_tests(
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
    """Test a function that a model wrote, in two jails: its source in one, the tests in the other.

    In a shared process a candidate can reach the tests and make each of them pass. Here the tests call a
    proxy, which sends the arguments to the candidate's jail and receives a plain value, or an error.

    Args:
        candidate: source that defines the function.
        tests: source that defines `check(candidate)`, which raises if the function is wrong.
        prelude: source that the tests may also need, such as functions of the problem's text; if it defines
            the function itself, the proxy replaces that definition.
        entry_point: the function's name.
        timeout: seconds for loading and all tests, from when both jails are ready.
        memory: bytes of address space, of each jail.
        disk: bytes of files, of each jail.
        isolation: result of `probe`, as in `run_program`.
        unsafe: True runs both without isolation, as in `run_program`; they remain two processes.

    Returns:
        Outcome; status "ok" only if `check` returned. Output of the candidate is discarded.

    Edge cases: the function gets copies of its arguments, so that tests cannot see what it does to them. With
        `unsafe` both run as the same user, and a candidate can reach its tests: a pass can then be forged.

    Raises:
        SandboxMissingError, ValueError: as `run_program`.

    Example:
        >>> import pytest; _ = probe().complete or pytest.skip("no sandbox")
        >>> tests = "def check(f):\\n    assert f(2) == 4"
        >>> run_tests("def double(x): return x + x", tests, entry_point="double").status
        'ok'
        >>> run_tests("def double(x): return x + 1", tests, entry_point="double").reason
        'wrong answer: line 2 of the tests: assert f(2) == 4'
    """
    require_isolation(isolation, unsafe=unsafe)
    limits, isolated = _check_limits(memory, OUTPUT, disk, timeout), not unsafe
    with ExitStack() as cleanup, ExitStack() as inherited:
        folder = cleanup.enter_context(tempfile.TemporaryDirectory()) if unsafe else "/"
        (requests_read, requests_write), (answers_read, answers_write) = os.pipe(), os.pipe()
        verdict_read, verdict_write = os.pipe()
        for pipe in (requests_read, requests_write, answers_read, answers_write, verdict_write):
            inherited.callback(os.close, pipe)
        role: dict[str, Any] = {
            "role": "tests",
            "prelude": prelude,
            "tests": tests,
            "entry_point": entry_point,
        }
        role |= {"requests": requests_write, "answers": answers_read, "verdict": verdict_write}
        tests_jail = supervisor.start_jail(
            role,
            limits,
            isolated=isolated,
            inherited=(requests_write, answers_read, verdict_write),
            extra_pipes={"verdict": verdict_read},
            folder=folder,
        )
        cleanup.callback(supervisor.end_jail, tests_jail)
        role = {"role": "candidate", "candidate": candidate, "entry_point": entry_point}
        role |= {"requests": requests_read, "answers": answers_write}
        candidate_jail = supervisor.start_jail(
            role, limits, isolated=isolated, inherited=(requests_read, answers_write), folder=folder
        )
        cleanup.callback(supervisor.end_jail, candidate_jail)
        inherited.close()
        ending = supervisor.supervise(
            (tests_jail, candidate_jail), limits, lambda: b"\n" in tests_jail.captured["verdict"]
        )
        codes = supervisor.end_jail(tests_jail), supervisor.end_jail(candidate_jail)
    for jail in (tests_jail, candidate_jail):
        _check_started(jail, ending.cause)
    return outcome.tests_outcome(tests_jail, candidate_jail, codes, ending, limits)


def _check_limits(memory: int, output: int, disk: int, timeout: float) -> Limits:
    """Return Limits; raise if one is out of range (a size of 0 would mean an unlimited disk)."""
    if memory < 64 * MIB or output < 1 or disk < 1 or not 0 < timeout < float("inf"):
        raise ValueError(
            f"sandbox: expected memory of at least {64 * MIB} bytes, and a positive output, disk and "
            f"timeout, got {memory=}, {output=}, {disk=}, {timeout=}"
        )
    return Limits(memory, output, disk, timeout)


def _run(program: str, limits: Limits, *, isolated: bool) -> tuple[Jail, Outcome]:
    """Run a program; return the jail, which has ended, and the outcome."""
    with ExitStack() as cleanup:
        folder = "/" if isolated else cleanup.enter_context(tempfile.TemporaryDirectory())
        role = {"role": "program", "program": program}
        jail = supervisor.start_jail(role, limits, isolated=isolated, capture=True, folder=folder)
        cleanup.callback(supervisor.end_jail, jail)
        ending = supervisor.supervise((jail,), limits)
        code = supervisor.end_jail(jail)
    _check_started(jail, ending.cause)
    return jail, outcome.program_outcome(jail, code, ending, limits)


def _check_started(jail: Jail, cause: str) -> None:
    """Raise if a jail could not be made, so that nothing was run in it."""
    control = supervisor.read_control(jail)
    if "ready" in control:
        return
    failure = (
        f"it did not start within {supervisor.START_TIMEOUT:g} s" if cause == "start" else "it ended at once"
    )
    errors = bytes(jail.captured.get("stderr", b"")).decode(errors="replace").strip().splitlines()
    missing = control.get("missing", ": ".join([failure, *errors[-1:]]))
    raise SandboxMissingError(f"sandbox: missing: {missing}. {ADVICE}")
