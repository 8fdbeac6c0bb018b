"""Build a jail from the inside, layer by layer, then run its role. (Runs inside a jail.)

Two processes of one interpreter, without an exec between them: the parent makes the namespaces and the file
system, and waits; the child, which is the first process of the new process namespace, drops all privileges,
restricts itself, tests its own isolation, and only then runs its role. When the child ends, the kernel kills
every other process of its namespace.

If a step fails, the jail reports the failure and runs nothing.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import select
import signal
import site
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from stages.sandbox import landlock, mounts, namespaces, seccomp, serve
from stages.sandbox.kernel import LIBC, call_libc

MAX_OPEN_FILES, MAX_THREADS, STACK_BYTES = 64, 256, 2**25
OUTSIDE_PATHS = (
    "/proc/self",
    "/sys/kernel",
    "/etc/passwd",
    "/bin/sh",
    "/usr/bin/env",
    "/dev/mem",
    "/dev/tty",
)
M_ARENA_MAX = -8  # option of mallopt; without a limit every thread reserves 64 MiB of the address space
READ_SIZE = 2**20


def main() -> None:
    """Read the setup from standard input, build the jail, and run the role.

    The setup is a JSON object:

        role                    "program", "candidate" or "tests"; it reads further entries (see ROLES)
        isolated                true to isolate the process; false sets resource limits only
        supervisor              id of the process that started this one
        control                 file descriptor of a pipe to the supervisor, closed before the role runs
        pipes                   file descriptors that the role uses
        memory, seconds, disk   limits

    Lines of JSON are written to "control": {"ready": [layers]} or {"missing": reason}, then
    {"end": exit code, "cpu": seconds}.
    """
    setup = json.loads(_read_input())
    try:
        namespaces.die_with_parent()
        if os.getppid() != setup["supervisor"]:
            os._exit(1)
        layers = _isolate(setup) if setup["isolated"] else _set_limits(setup)
    except Exception as error:
        send_report(setup["control"], {"missing": str(getattr(error, "strerror", None) or error)})
        os._exit(1)
    send_report(setup["control"], {"ready": layers})
    os.close(setup["control"])
    _reset_interpreter()
    ROLES[setup["role"]](setup)


def run_program(setup: Mapping[str, Any]) -> None:
    """Run setup["program"] as the main program; an exception is printed as Python prints it (exit code 1).

    Raises:
        SystemExit: if the program raised an exception.
    """
    module_globals = serve.new_module()
    try:
        exec(compile(setup["program"], "<program>", "exec", dont_inherit=True), module_globals)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__ and error.__traceback__.tb_next  # drops the frame of the exec above
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        raise SystemExit(1) from None


def send_report(pipe: int, report: Mapping[str, Any]) -> None:
    """Write a line of JSON to the supervisor; do nothing if it has ended."""
    try:
        os.write(pipe, json.dumps(report).encode() + b"\n")
    except OSError:
        return


def _read_input() -> bytes:
    """Read all of standard input, and replace it by an empty one."""
    chunks = []
    while chunk := os.read(0, READ_SIZE):
        chunks.append(chunk)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return b"".join(chunks)


def _isolate(setup: Mapping[str, Any]) -> list[str]:
    """Build every isolation layer; returns their names, in the child process only."""
    sys.dont_write_bytecode = True
    os.umask(0o022)  # folders of the new root can be read by every user
    user = namespaces.choose_user(os.getpid())  # while /proc is still mounted
    entered = namespaces.enter_namespaces()
    folders = mounts.build_root(setup["disk"])
    liveness_read, liveness_write = os.pipe()  # only the parent keeps the write end open
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until the parent knows its child
    child = os.fork()
    if child:
        _wait_for_child(child, setup["control"], liveness_write)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.close(liveness_write)
    os.setsid()
    namespaces.drop_privileges(mapped="user" in entered, user=user)
    # The pipe is readable (end of file) if the parent ended before this process was set to end with it.
    if select.select([liveness_read], [], [], 0)[0]:
        os._exit(1)
    if unreadable := [folder for folder in folders if not os.access(folder, os.R_OK)]:
        raise OSError(
            errno.EACCES,
            f"other users cannot read Python's library in {unreadable[0]}; chmod -R o+rX {unreadable[0]}",
        )
    _close_all_except({0, 1, 2, setup["control"], *setup["pipes"]})
    limits = _set_limits(setup)
    version = landlock.restrict(folders, mounts.DEVICES, mounts.SCRATCH)
    # Before the filter, which refuses capget.
    unblocked = [] if namespaces.has_no_privileges() else ["privileges"]
    seccomp.install_filter()
    unblocked += [name for name, is_isolated in SELF_TESTS if not is_isolated()]
    if unblocked:
        raise OSError(errno.EPERM, f"the jail's self-test failed, it does not block: {', '.join(unblocked)}")
    landlock_layer = [f"Landlock ABI {version}"] if version else []
    return [f"{', '.join(entered)} namespaces", "seccomp", *landlock_layer, *limits]


def _wait_for_child(child: int, control: int, liveness_write: int) -> NoReturn:
    """Wait, in the parent process, until the child ends (SIGTERM kills it), and report its exit code."""
    _close_all_except({control, liveness_write})
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on the pid may become another process's
    status = os.waitpid(child, 0)[1]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    send_report(control, {"end": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime})
    os._exit(0)


def _close_all_except(descriptors: set[int]) -> None:
    """Close every file descriptor but these."""
    for low, high in itertools.pairwise([-1, *sorted(descriptors), 2**20]):
        if low + 1 < high:  # closerange(0, 0) closes everything
            os.closerange(low + 1, high)


def _set_limits(setup: Mapping[str, Any]) -> list[str]:
    """Set the resource limits of this process; return the name of this layer."""
    limits = [
        (resource.RLIMIT_AS, setup["memory"]),
        (resource.RLIMIT_CPU, setup["seconds"]),
        (resource.RLIMIT_FSIZE, setup["disk"]),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, MAX_THREADS),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ]
    if hasattr(resource, "RLIMIT_MSGQUEUE"):
        limits.append((resource.RLIMIT_MSGQUEUE, 0))
    for limit, value in limits:
        hard_limit = resource.getrlimit(limit)[1]
        if hard_limit != resource.RLIM_INFINITY:
            value = min(value, hard_limit)
        resource.setrlimit(limit, (value, value))
    if hasattr(LIBC, "mallopt"):
        LIBC.mallopt(M_ARENA_MAX, 2)
    return ["rlimits"]


def _reset_interpreter() -> None:
    """Reset the interpreter to the state that a program expects.

    Our modules, arguments and environment are removed; `exit`, `quit` and `help` are added, which a start
    without installed packages (-S) lacks.
    """
    site.setquit()
    site.sethelper()
    for name in [name for name in sys.modules if name.split(".")[0] == "stages"]:
        del sys.modules[name]
    sys.argv[:] = [""]
    os.environ.clear()


def _fails_with(action: Callable[[], Any], *expected: int) -> bool:
    """Test that an action fails with one of the expected error numbers."""
    try:
        action()
    except OSError as error:
        return error.errno in expected
    return False


def _hides_outside_files() -> bool:
    """Test that no file of the old root is visible (folders may be, as parents of the library folders)."""
    return not any(os.path.lexists(path) for path in OUTSIDE_PATHS)


def _refuses_writing() -> bool:
    return _fails_with(lambda: os.mkdir("/new"), errno.EROFS, errno.EACCES)


def _refuses_fork() -> bool:
    """Test that fork fails; if it succeeds, the child must end at once."""

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    return _fails_with(fork, errno.EPERM)


def _refuses_sockets() -> bool:
    """Test that a socket cannot be made (by libc: the socket module is slow to import)."""
    return _fails_with(lambda: call_libc("socket", 1, 1, 0), errno.EPERM)


def _is_first_process() -> bool:
    return os.getpid() == 1 and os.getppid() == 0


SELF_TESTS: Sequence[tuple[str, Callable[[], bool]]] = (
    ("files outside", _hides_outside_files),
    ("writing outside", _refuses_writing),
    ("processes", _refuses_fork),
    ("sockets", _refuses_sockets),
    ("process ids", _is_first_process),
)
"""Tests from inside the jail before the role runs: name of what must be out of reach, test."""
ROLES: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "program": run_program,
    "candidate": serve.serve_candidate,
    "tests": serve.run_tests,
}
