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
from stages.sandbox.kernel import LIBC, call

FILES, THREADS, STACK = 64, 256, 2**25
OUTSIDE = ("/proc/self", "/sys/kernel", "/etc/passwd", "/bin/sh", "/usr/bin/env", "/dev/mem", "/dev/tty")
ARENAS = -8  # M_ARENA_MAX of mallopt: else every thread reserves 64 MiB of the program's address space
BLOCK = 2**20


def main() -> None:
    """Read the setup from standard input, build the jail, and run the role.

    The setup is JSON: "role" ("program", "candidate" or "tests") and its own values; "isolated", whether to
    isolate the process; "supervisor", the process that started this one; "control", a pipe to it that no role
    can reach; "pipes", those that the role uses; "memory", "seconds", "disk", the limits.

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
        SystemExit: if it raised.
    """
    space = serve.new_module()
    try:
        exec(compile(setup["program"], "<program>", "exec", dont_inherit=True), space)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__ and error.__traceback__.tb_next  # without the line above
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        raise SystemExit(1) from None


def send_report(pipe: int, report: Mapping[str, Any]) -> None:
    """Write a line of JSON to the supervisor, which may have ended."""
    try:
        os.write(pipe, json.dumps(report).encode() + b"\n")
    except OSError:
        return


def _read_input() -> bytes:
    """Read all of standard input, and replace it by an empty one."""
    chunks = []
    while chunk := os.read(0, BLOCK):
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
    spaces = namespaces.enter_namespaces()
    folders = mounts.build_root(setup["disk"])
    parent_alive, parent_end = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until the parent knows its child
    child = os.fork()
    if child:
        _wait_for_child(child, setup["control"], parent_end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.close(parent_end)
    os.setsid()
    namespaces.drop_privileges(mapped="user" in spaces, user=user)
    # Readable means closed: the parent ended before this process was set to end with it.
    if select.select([parent_alive], [], [], 0)[0]:
        os._exit(1)
    if unreadable := [folder for folder in folders if not os.access(folder, os.R_OK)]:
        raise OSError(
            errno.EACCES,
            f"other users cannot read Python's library in {unreadable[0]}; chmod -R o+rX {unreadable[0]}",
        )
    _keep_open({0, 1, 2, setup["control"], *setup["pipes"]})
    limits = _set_limits(setup)
    version = landlock.restrict(folders, mounts.DEVICES, mounts.SCRATCH)
    unprivileged = namespaces.has_no_privileges()  # before the filter, which refuses capget
    seccomp.install_filter()
    failed = [name for name, is_isolated in SELF_TESTS if not is_isolated()]
    if failed or not unprivileged:
        failed = failed if unprivileged else ["privileges", *failed]
        raise OSError(errno.EPERM, f"a jail reaches: {', '.join(failed)}")
    files = [f"Landlock ABI {version}"] if version else []
    return [f"{', '.join(spaces)} namespaces", "seccomp", *files, *limits]


def _wait_for_child(child: int, control: int, parent_end: int) -> NoReturn:
    """Wait, in the parent process, until the child ends (SIGTERM kills it), and report its exit code."""
    _keep_open({control, parent_end})
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on the pid may become another process's
    status = os.waitpid(child, 0)[1]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    send_report(control, {"end": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime})
    os._exit(0)


def _keep_open(kept: set[int]) -> None:
    """Close every other file descriptor."""
    for low, high in itertools.pairwise([-1, *sorted(kept), 2**20]):
        if low + 1 < high:  # closerange(0, 0) closes everything
            os.closerange(low + 1, high)


def _set_limits(setup: Mapping[str, Any]) -> list[str]:
    """Set the resource limits of this process."""
    limits = (
        (resource.RLIMIT_AS, setup["memory"]),
        (resource.RLIMIT_CPU, setup["seconds"]),
        (resource.RLIMIT_FSIZE, setup["disk"]),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_NPROC, THREADS),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        *(((resource.RLIMIT_MSGQUEUE, 0),) if hasattr(resource, "RLIMIT_MSGQUEUE") else ()),
    )
    for which, value in limits:
        most = resource.getrlimit(which)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(which, (value, value))
    if hasattr(LIBC, "mallopt"):
        LIBC.mallopt(ARENAS, 2)
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
    return not any(os.path.lexists(path) for path in OUTSIDE)


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
    return _fails_with(lambda: call("socket", 1, 1, 0), errno.EPERM)


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
