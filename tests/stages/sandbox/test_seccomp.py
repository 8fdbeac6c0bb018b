"""The filter's decisions, computed by a BPF interpreter that is written here from the definition of BPF."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from stages.sandbox import syscalls
from stages.sandbox.seccomp import ALLOW, ERROR, KILL, build_filter
from tests.stages.sandbox.child_process import run_in_child

LOAD_WORD, AND, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
"""Opcodes of BPF."""

DENY, ABSENT = ERROR | errno.EPERM, ERROR | errno.ENOSYS
MACHINES = syscalls.MACHINES


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Run the filter on a system call; return its answer."""
    architecture = syscalls.audit_architecture(machine) if architecture is None else architecture
    data = struct.pack(
        "=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *arguments, *[0] * (6 - len(arguments))
    )
    program = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    counter = word = 0
    while True:
        opcode, jump_if_true, jump_if_false, value = program[counter]
        counter += 1
        if opcode == LOAD_WORD:
            (word,) = struct.unpack_from("=I", data, value)
        elif opcode == AND:
            word &= value
        elif opcode in (JUMP_IF_EQUAL, JUMP_IF_AT_LEAST):
            holds = word == value if opcode == JUMP_IF_EQUAL else word >= value
            counter += jump_if_true if holds else jump_if_false
        else:
            assert opcode == RETURN
            return value


def decide_named(machine: str, name: str, *arguments: int) -> int:
    """Run the filter on a call of syscalls.BOUNDED, given by its name."""
    return decide(machine, syscalls.number(machine, name), *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_exactly_the_calls_of_the_table_are_allowed(machine: str) -> None:
    allowed = set(syscalls.numbers(machine))
    bounded = {syscalls.number(machine, name) for name, _, _ in syscalls.BOUNDED}
    for number in [*range(600), 2**30 - 1, 2**31, 2**32 - 1]:
        if number not in bounded:
            assert decide(machine, number, 1, 2, 3) == (ALLOW if number in allowed else DENY), number


@pytest.mark.parametrize("machine", MACHINES)
def test_a_call_of_another_architecture_kills_the_process(machine: str) -> None:
    # i386, 32-bit Arm, none, the other 64-bit machine
    for architecture in (0x40000003, 0x40000028, 0, 0xC00000B7 if machine == "x86_64" else 0xC000003E):
        assert decide(machine, 0, architecture=architecture) == KILL


def test_x32_numbers_are_refused() -> None:
    for number in (0, 1, 2, 59, 520, 2**30 - 1):
        assert decide("x86_64", 0x40000000 + number) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_can_start_threads_only(machine: str) -> None:
    # The flags of glibc: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, ...
    thread = 0x003D0F00
    assert decide_named(machine, "clone", thread) == ALLOW
    assert decide_named(machine, "clone3", 0, 88) == ABSENT
    # fork, no flags, CLONE_VM alone, vfork, and a thread's flags with one more
    for flags in (17, 0, 0x100, 0x4111, *(thread | 1 << bit for bit in (13, 14, 17, 25, 26, 27, 28, 29, 30))):
        assert decide_named(machine, "clone", flags) == DENY, hex(flags)


@pytest.mark.parametrize("machine", MACHINES)
def test_only_listed_requests_of_ioctl_prctl_fcntl_and_prlimit64_are_allowed(machine: str) -> None:
    for request in (0x5401, 0x5450):  # TCGETS, FIONCLEX
        assert decide_named(machine, "ioctl", 1, request) == ALLOW
    assert decide_named(machine, "ioctl", 1, 0x5412) == DENY  # TIOCSTI
    for option in (15, 16):  # PR_SET_NAME, PR_GET_NAME
        assert decide_named(machine, "prctl", option) == ALLOW
    for option in (1, 4, 22, 38):  # PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS
        assert decide_named(machine, "prctl", option) == DENY
    for command in (1, 6):  # F_GETFD, F_SETLK
        assert decide_named(machine, "fcntl", 3, command) == ALLOW
    for command in (8, 1024, 1031):  # F_SETOWN, F_SETLEASE, F_SETPIPE_SZ
        assert decide_named(machine, "fcntl", 3, command) == DENY
    assert decide_named(machine, "prlimit64", 0) == ALLOW  # the process itself
    for pid in (1, 4711):
        assert decide_named(machine, "prlimit64", pid) == DENY


def test_the_filter_is_short_enough_for_the_kernel() -> None:
    assert all(len(build_filter(machine)) // 8 <= 4096 for machine in MACHINES)
    with pytest.raises(OSError, match="s390x"):
        build_filter("s390x")


def test_the_kernel_accepts_the_filter() -> None:
    code = """
import os
from stages.sandbox import seccomp
from stages.sandbox.kernel import PR_SET_NO_NEW_PRIVS, prctl
prctl(PR_SET_NO_NEW_PRIVS, 1)
seccomp.install_filter()
try:
    os.fork()
except PermissionError:
    print("refused", os.getpid() > 0)
"""
    if os.uname().machine not in MACHINES:
        pytest.skip("there is no table for this machine")
    assert run_in_child(code) == "refused True"
