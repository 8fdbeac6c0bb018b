"""Jails are supervised and ended, whatever they do."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.sandbox import supervisor
from stages.sandbox.sandbox import MIB, Isolation
from stages.sandbox.supervisor import Jail, Limits, SandboxMissingError

LIMITS = Limits(128 * MIB, 1000, MIB, 20.0)


@contextmanager
def open_jail(program: str, limits: Limits = LIMITS, isolated: bool = True) -> Iterator[Jail]:
    jail = supervisor.start_jail(
        {"role": "program", "program": program}, limits, isolated=isolated, capture=True
    )
    try:
        yield jail
    finally:
        supervisor.end_jail(jail)


def test_outputs_and_exit_code_are_captured(isolation: Isolation) -> None:
    with open_jail("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)") as jail:
        ending = supervisor.supervise([jail], LIMITS)
        assert ending.cause == "ended"
        assert 0 < ending.seconds < 20
        assert supervisor.end_jail(jail) == 0
        assert (jail.captured["stdout"], jail.captured["stderr"]) == (b"out\n", b"err\n")
        assert supervisor.read_control(jail)["end"] == 3
        assert "seccomp" in supervisor.read_control(jail)["ready"]


@pytest.mark.parametrize("isolated", [True, False])
def test_the_time_of_a_jail_is_bounded(isolation: Isolation, isolated: bool) -> None:
    limits = LIMITS._replace(timeout=0.3)
    start = time.monotonic()
    with open_jail(
        "import signal\nfor n in (1, 2, 15): signal.signal(n, lambda *_: 0)\nwhile True: pass",
        limits,
        isolated,
    ) as jail:
        ending = supervisor.supervise([jail], limits)
        assert ending.cause == "timeout"
        assert 0.3 <= ending.seconds < 5
        supervisor.end_jail(jail)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("isolated", [True, False])
def test_the_output_of_a_jail_is_bounded(isolation: Isolation, isolated: bool, stream: str) -> None:
    with open_jail(f"import os\nwhile True: os.write({stream}, b'x' * 999)", isolated=isolated) as jail:
        assert supervisor.supervise([jail], LIMITS).cause == "output"
        name = {"1": "stdout", "2": "stderr"}[stream]
        assert jail.captured[name] == b"x" * LIMITS.output


def test_output_of_exactly_the_limit_is_accepted(isolation: Isolation) -> None:
    with open_jail(f"print('x' * {LIMITS.output}, end='')") as jail:
        assert supervisor.supervise([jail], LIMITS).cause == "ended"
        assert len(jail.captured["stdout"]) == LIMITS.output


def test_a_true_condition_ends_the_supervision(isolation: Isolation) -> None:
    with open_jail("print('x', flush=True)\nwhile True: pass") as jail:
        assert supervisor.supervise([jail], LIMITS, lambda: bool(jail.captured["stdout"])).cause == "enough"
        supervisor.end_jail(jail)
        assert supervisor.read_control(jail)["end"] == -signal.SIGKILL


def test_a_jail_ended_early_leaves_no_process(isolation: Isolation) -> None:
    """As when the user interrupts."""
    with open_jail("while True: pass") as jail:
        while b"\n" not in jail.captured["control"]:
            jail.captured["control"].extend(os.read(jail.pipes["control"], 1000))
    assert jail.process.returncode == -signal.SIGKILL
    assert supervisor.has_ended(jail)
    supervisor.end_jail(jail)


def test_without_isolation_child_processes_are_killed_too() -> None:
    program = "import subprocess, sys\n"
    program += "print(subprocess.Popen([sys.executable, '-c', 'while True: pass']).pid, flush=True)"
    with open_jail(program, isolated=False) as jail:
        supervisor.supervise([jail], LIMITS)
        child = int(jail.captured["stdout"])
    end = time.monotonic() + 10
    while (state := _state(child)) not in ("", "Z") and time.monotonic() < end:
        time.sleep(0.01)
    assert state in ("", "Z")


def _state(pid: int) -> str:
    """A process's state, such as "R" or "Z"; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_failed_start_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    read, write = os.pipe()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        supervisor.start_jail({}, LIMITS, isolated=True, capture=True, extra_pipes={"verdict": read})
    os.close(write)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_jail_that_cannot_be_made_says_why_and_runs_nothing() -> None:
    """The setup asks for what setrlimit refuses."""
    limits = LIMITS._replace(memory=-(2**70))
    with open_jail("print('run')", limits) as jail:
        assert supervisor.supervise([jail], LIMITS).cause == "ended"
        assert "ready" not in supervisor.read_control(jail)
        assert supervisor.read_control(jail)["missing"]
        assert jail.captured["stdout"] == b""


def test_several_threads_can_run_jails_at_once(isolation: Isolation) -> None:
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()

    def run(number: int) -> bytes:
        with open_jail(f"print({number})") as jail:
            supervisor.supervise([jail], LIMITS)
            return bytes(jail.captured["stdout"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(12))) == [f"{i}\n".encode() for i in range(12)]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_a_system_other_than_linux_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxMissingError, match="Linux; this is darwin"):
        supervisor.start_jail({}, LIMITS, isolated=False)


def test_sandbox_missing_error_is_an_os_error() -> None:
    assert issubclass(SandboxMissingError, OSError)
