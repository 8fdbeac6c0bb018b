"""A jail from the inside: the walls in their order, and then what is to be run. (Runs inside a jail.)

Two processes of one interpreter, without an exec between: the warden makes the namespaces and the file
system, and waits; the inmate, its child and the first process of the new process namespace, gives up all
rights, closes itself in, tries the walls, and only then runs what it was given. When the inmate ends, the
kernel ends all else in its namespace.

What goes wrong before that is told, and nothing is run.
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
ARENAS = -8  # M_ARENA_MAX of mallopt: else every thread reserves 64 MiB of what the program may have
BLOCK = 2**20


def main() -> None:
    """Reads from standard input what to do, builds the walls, and does it.

    The input is JSON: "role" ("program", "candidate" or "tests") and what that needs; "walls", whether to
    build them; "supervisor", the process that started this one; "control", a pipe to it, that no role gets to
    see; "pipes", those which the role does; "memory", "seconds", "disk", the limits.

    On "control" go lines of JSON: {"ready": [walls]} or {"missing": why}, then {"end": exit code, "cpu":
    seconds}.
    """
    setup = json.loads(_input())
    try:
        namespaces.die_with_parent()
        if os.getppid() != setup["supervisor"]:
            os._exit(1)
        walls = _build(setup) if setup["walls"] else _limit(setup)
    except Exception as error:
        tell(setup["control"], {"missing": str(getattr(error, "strerror", None) or error)})
        os._exit(1)
    tell(setup["control"], {"ready": walls})
    os.close(setup["control"])
    _forget()
    ROLES[setup["role"]](setup)


def program(setup: Mapping[str, Any]) -> None:
    """Runs setup["program"] as the main program; an exception is printed as Python prints it, and the exit
    code is 1.

    Raises:
        SystemExit: if it raised.
    """
    space = serve.fresh_main()
    try:
        exec(compile(setup["program"], "<program>", "exec", dont_inherit=True), space)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__ and error.__traceback__.tb_next  # without the line above
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        raise SystemExit(1) from None


def tell(pipe: int, what: Mapping[str, Any]) -> None:
    """Writes a line to the supervisor; nobody may be there any more."""
    try:
        os.write(pipe, json.dumps(what).encode() + b"\n")
    except OSError:
        return


def _input() -> bytes:
    """Everything on standard input, which then becomes empty."""
    chunks = []
    while chunk := os.read(0, BLOCK):
        chunks.append(chunk)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return b"".join(chunks)


def _build(setup: Mapping[str, Any]) -> list[str]:
    """Builds the walls; returns in the inmate only, with their names."""
    sys.dont_write_bytecode = True
    os.umask(0o022)  # folders of the new root are for everybody
    user = namespaces.own_user(os.getpid())  # asked while /proc is in sight
    spaces = namespaces.enter()
    folders = mounts.build(setup["disk"])
    alive, life = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until the warden knows whom to end
    inmate = os.fork()
    if inmate:
        _watch(inmate, setup["control"], life)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.close(life)
    os.setsid()
    namespaces.drop(mapped="user" in spaces, user=user)
    if select.select([alive], [], [], 0)[
        0
    ]:  # the warden's end is closed: it died before this one would die with it
        os._exit(1)
    if closed := [folder for folder in folders if not os.access(folder, os.R_OK)]:
        raise OSError(
            errno.EACCES, f"{closed[0]} has Python's library, and other users cannot read it (chmod -R o+rX)"
        )
    _keep_open({0, 1, 2, setup["control"], *setup["pipes"]})
    limits = _limit(setup)
    version = landlock.restrict(folders, mounts.DEVICES, mounts.SCRATCH)
    dropped = namespaces.dropped()  # asked before the filter, which refuses the question
    seccomp.install()
    if holes := [*([] if dropped else ["rights"]), *(name for name, wall in WALLS if not wall())]:
        raise OSError(errno.EPERM, f"the walls let through: {', '.join(holes)}")
    files = [f"Landlock ABI {version}"] if version else []
    return [f"{', '.join(spaces)} namespaces", "seccomp", *files, *limits]


def _watch(inmate: int, control: int, life: int) -> NoReturn:
    """The warden's part: waits for the inmate, ends it when it is told to (SIGTERM), and tells how it
    ended."""
    _keep_open({control, life})
    signal.signal(signal.SIGTERM, lambda *_: os.kill(inmate, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.waitid(os.P_PID, inmate, os.WEXITED | os.WNOWAIT)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on the number may become another process's
    status = os.waitpid(inmate, 0)[1]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    tell(control, {"end": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime})
    os._exit(0)


def _keep_open(kept: set[int]) -> None:
    """Closes every other file descriptor."""
    for low, high in itertools.pairwise([-1, *sorted(kept), 2**20]):
        if low + 1 < high:  # closerange(0, 0) closes everything
            os.closerange(low + 1, high)


def _limit(setup: Mapping[str, Any]) -> list[str]:
    """Sets the limits that the kernel keeps for a process."""
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


def _forget() -> None:
    """Leaves a program an interpreter as it would find it: without our modules, arguments and environment,
    and with `exit`, `quit` and `help`, which a start without installed packages (-S) leaves out."""
    site.setquit()
    site.sethelper()
    for name in [name for name in sys.modules if name.split(".")[0] == "stages"]:
        del sys.modules[name]
    sys.argv[:] = [""]
    os.environ.clear()


def _refused(action: Callable[[], Any], *expected: int) -> bool:
    """Tells whether it fails, and in the way that it should."""
    try:
        action()
    except OSError as error:
        return error.errno in expected
    return False


def _outside_is_gone() -> bool:
    """Nothing of the old root is in sight that every root has. (Folders may be there, on the way to
    libraries.)"""
    return not any(os.path.lexists(path) for path in OUTSIDE)


def _root_is_closed() -> bool:
    return _refused(lambda: os.mkdir("/new"), errno.EROFS, errno.EACCES)


def _no_process() -> bool:
    """A call of fork fails; were it not to, the child must end at once."""

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    return _refused(fork, errno.EPERM)


def _no_socket() -> bool:
    """A socket cannot be made. (Called by libc's name: the socket module takes long to import.)"""
    return _refused(lambda: call("socket", 1, 1, 0), errno.EPERM)


def _alone() -> bool:
    return os.getpid() == 1 and os.getppid() == 0


WALLS: Sequence[tuple[str, Callable[[], bool]]] = (
    ("files outside", _outside_is_gone),
    ("writing outside", _root_is_closed),
    ("processes", _no_process),
    ("sockets", _no_socket),
    ("process ids", _alone),
)
"""What is tried from inside before anything is run."""
ROLES: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "program": program,
    "candidate": serve.candidate,
    "tests": serve.tests,
}
