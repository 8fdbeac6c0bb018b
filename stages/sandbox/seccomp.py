"""The filter of system calls: the wall in front of the kernel itself. (Runs inside a jail.)

A BPF program that the kernel runs before every system call, on the number, the machine and the arguments: an
allow list, so that what nobody thought of is refused. It holds for every thread from then on, and cannot be
taken off.

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
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # where they stand in struct seccomp_data
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
X32 = 0x40000000  # a second numbering of the calls on x86_64
FILTER_MODE = 2
THREAD, OTHERS = 0x00010000, 0x7E026000
"""Flags of clone: a thread; and what must not come with it (new namespaces, vfork, ptrace)."""
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Not
those that send signals, watch folders, hold leases on files, or enlarge pipes."""
IOCTLS = (0x5401, 0x802C542A, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TCGETS2 (is it a terminal?), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
PRCTLS = (15, 16)
"""PR_SET_NAME, PR_GET_NAME."""


def install() -> None:
    """Filters the system calls of this process, for good.

    Raises:
        OSError: if the kernel refuses, or there is no table for this machine.
    """
    program = filter_program(os.uname().machine)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    place = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(place))


def filter_program(machine: str) -> bytes:
    """Builds the filter.

    Args:
        machine: as uname calls it.

    Returns:
        BPF instructions, eight bytes each.

    Steps:
        1. Another machine's calls (32-bit ones on x86_64) would be misread: the process is killed.
        2. x32's numbers, which only x86_64 has, are refused.
        3. Calls that are allowed whatever their arguments.
        4. Calls that are allowed with some arguments: clone only for threads, since glibc starts threads with
           clone3 and takes clone if that does not exist; fcntl, ioctl and prctl for a few harmless requests;
           prlimit64 on oneself.
        5. All others fail with EPERM.

    Raises:
        OSError: if there is no table for this machine.
    """
    named = {name: syscalls.number(machine, name) for name, _, _ in syscalls.BOUNDED}
    deny = _answer(ERROR | errno.EPERM)
    return b"".join(
        (
            # 1. The machine.
            _load(MACHINE),
            _unless(EQUAL, syscalls.audit(machine), _answer(KILL)),
            # 2. x32.
            _load(NUMBER),
            _when(AT_LEAST, X32, deny),
            # 3. Always.
            *(_when(EQUAL, number, _answer(ALLOW)) for number in syscalls.numbers(machine)),
            # 4. Sometimes.
            _when(EQUAL, named["clone3"], _answer(ERROR | errno.ENOSYS)),
            _when(EQUAL, named["clone"], _argument(0) + _step(AND, THREAD | OTHERS) + _one_of([THREAD])),
            _when(EQUAL, named["fcntl"], _argument(1) + _one_of(FCNTLS)),
            _when(EQUAL, named["ioctl"], _argument(1) + _one_of(IOCTLS)),
            _when(EQUAL, named["prctl"], _argument(0) + _one_of(PRCTLS)),
            _when(EQUAL, named["prlimit64"], _argument(0) + _one_of([0])),
            # 5. Never.
            deny,
        )
    )


def _one_of(values: Sequence[int]) -> bytes:
    """Allows the call if the word that is loaded is one of these; else refuses it."""
    return b"".join(_when(EQUAL, value, _answer(ALLOW)) for value in values) + _answer(ERROR | errno.EPERM)


def _when(comparison: int, value: int, then: bytes) -> bytes:
    """Does `then` if the comparison of the loaded word holds, and goes on behind it otherwise."""
    return _step(comparison, value, 0, len(then) // 8) + then


def _unless(comparison: int, value: int, then: bytes) -> bytes:
    return _step(comparison, value, len(then) // 8, 0) + then


def _argument(index: int) -> bytes:
    """Loads the lower half of an argument; of those that are looked at the kernel reads no more than that."""
    return _load(ARGUMENTS + 8 * index)


def _load(offset: int) -> bytes:
    return _step(LOAD, offset)


def _answer(value: int) -> bytes:
    return _step(RETURN, value)


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One instruction: code, how many to skip if it holds and if not, a constant."""
    return struct.pack("=HBBI", code, yes, no, value)
