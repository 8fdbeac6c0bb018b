"""Filter of system calls: protects the kernel itself. (Runs inside a jail.)

A BPF program that the kernel runs before every system call, on its number, the architecture and the
arguments. It is an allow list: a call that is not listed is refused. It holds for every thread from then on,
and cannot be removed.

seccomp(2); McCanne and Jacobson, "The BSD Packet Filter", 1993.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

from stages.sandbox import syscalls
from stages.sandbox.kernel import PR_SET_SECCOMP, prctl

LOAD, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # of a word; jumps compare with a constant
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
X32 = 0x40000000  # a second numbering of the calls on x86_64
FILTER_MODE = 2
THREAD, REFUSED_WITH_THREAD = 0x00010000, 0x7E026000
"""Flags of clone: a thread; and those that are refused with it (new namespaces, vfork, ptrace)."""
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ.
Without those that send signals, watch folders, hold leases on files, or enlarge pipes."""
IOCTLS = (0x5401, 0x802C542A, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TCGETS2 (is it a terminal?), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
PRCTLS = (15, 16)
"""PR_SET_NAME, PR_GET_NAME."""


def install_filter() -> None:
    """Install the filter in this process; it cannot be removed.

    Raises:
        OSError: if the kernel refuses, or there is no table for this machine.
    """
    program = build_filter(os.uname().machine)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    header_buffer = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(header_buffer))


def build_filter(machine: str) -> bytes:
    """Build the filter.

    Args:
        machine: architecture, as uname names it.

    Returns:
        BPF instructions, eight bytes each.

    Steps:
        1. A call in another architecture's numbering (32-bit on x86_64) kills the process: there the same
           number means another call.
        2. Numbers of x32, which only x86_64 has, are refused.
        3. Allow the calls that are harmless with any arguments.
        4. Allow some calls with some arguments: clone for threads only, to which glibc falls back if
           clone3 does not exist; fcntl, ioctl and prctl for a few harmless requests; prlimit64 on the process
           itself.
        5. All others fail with EPERM.

    Raises:
        OSError: if there is no table for this machine.
    """
    named = {name: syscalls.number(machine, name) for name, _, _ in syscalls.BOUNDED}
    deny = _return(ERROR | errno.EPERM)
    return b"".join(
        (
            # 1. The architecture.
            _load(MACHINE),
            _unless(EQUAL, syscalls.audit_architecture(machine), _return(KILL)),
            # 2. x32.
            _load(NUMBER),
            _when(AT_LEAST, X32, deny),
            # 3. Any arguments.
            *(_when(EQUAL, number, _return(ALLOW)) for number in syscalls.numbers(machine)),
            # 4. Some arguments.
            _when(EQUAL, named["clone3"], _return(ERROR | errno.ENOSYS)),
            _when(
                EQUAL,
                named["clone"],
                _argument(0) + _step(AND, THREAD | REFUSED_WITH_THREAD) + _one_of([THREAD]),
            ),
            _when(EQUAL, named["fcntl"], _argument(1) + _one_of(FCNTLS)),
            _when(EQUAL, named["ioctl"], _argument(1) + _one_of(IOCTLS)),
            _when(EQUAL, named["prctl"], _argument(0) + _one_of(PRCTLS)),
            _when(EQUAL, named["prlimit64"], _argument(0) + _one_of([0])),
            # 5. All others.
            deny,
        )
    )


def _one_of(values: Sequence[int]) -> bytes:
    """Allow the call if the loaded word is one of the values; else refuse it."""
    return b"".join(_when(EQUAL, value, _return(ALLOW)) for value in values) + _return(ERROR | errno.EPERM)


def _when(comparison: int, value: int, then: bytes) -> bytes:
    """Run `then` if the comparison of the loaded word holds, else the instruction after it."""
    return _step(comparison, value, 0, len(then) // 8) + then


def _unless(comparison: int, value: int, then: bytes) -> bytes:
    """Run `then` if the comparison of the loaded word fails, else the instruction after it."""
    return _step(comparison, value, len(then) // 8, 0) + then


def _argument(index: int) -> bytes:
    """Load the lower half of an argument; of the arguments checked here the kernel reads no more."""
    return _load(ARGUMENTS + 8 * index)


def _load(offset: int) -> bytes:
    return _step(LOAD, offset)


def _return(value: int) -> bytes:
    return _step(RETURN, value)


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """Encode one instruction: code, instructions to skip if it holds and if not, a constant."""
    return struct.pack("=HBBI", code, yes, no, value)
