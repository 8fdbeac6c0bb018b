"""The filter, run by an interpreter of BPF that is written here from its definition."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from stages.sandbox import syscalls
from stages.sandbox.seccomp import ALLOW, ERROR, KILL, build_filter
from tests.stages.sandbox.child_process import run_in_child

DENY, ABSENT = ERROR | errno.EPERM, ERROR | errno.ENOSYS
MACHINES = syscalls.MACHINES


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Run the filter on a system call; return its answer."""
    architecture = syscalls.audit_architecture(machine) if architecture is None else architecture
    data = struct.pack(
        "=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *arguments, *[0] * (6 - len(arguments))
    )
    program = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    place = word = 0
    while True:
        code, yes, no, value = program[place]
        place += 1
        if code == 0x20:
            (word,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            word &= value
        elif code in (0x15, 0x35):
            holds = word == value if code == 0x15 else word >= value
            place += yes if holds else no
        else:
            assert code == 0x06
            return value


def bounded(machine: str, name: str, *arguments: int) -> int:
    return decide(machine, syscalls.number(machine, name), *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_is_decided_as_the_table_says(machine: str) -> None:
    allowed = set(syscalls.numbers(machine))
    some = {syscalls.number(machine, name) for name, _, _ in syscalls.BOUNDED}
    for number in [*range(600), 2**30 - 1, 2**31, 2**32 - 1]:
        if number not in some:
            assert decide(machine, number, 1, 2, 3) == (ALLOW if number in allowed else DENY), number


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_machine_kill(machine: str) -> None:
    for architecture in (0x40000003, 0x40000028, 0, 0xC00000B7 if machine == "x86_64" else 0xC000003E):
        assert decide(machine, 0, architecture=architecture) == KILL


def test_the_second_numbering_is_refused() -> None:
    for number in (0, 1, 2, 59, 520, 2**30 - 1):
        assert decide("x86_64", 0x40000000 + number) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_only(machine: str) -> None:
    thread = (
        0x003D0F00  # what glibc asks for: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, ...
    )
    assert bounded(machine, "clone", thread) == ALLOW
    assert bounded(machine, "clone3", 0, 88) == ABSENT
    for flags in (17, 0, 0x100, 0x4111, *(thread | 1 << bit for bit in (13, 14, 17, 25, 26, 27, 28, 29, 30))):
        assert bounded(machine, "clone", flags) == DENY, hex(flags)


@pytest.mark.parametrize("machine", MACHINES)
def test_some_requests_only(machine: str) -> None:
    assert [bounded(machine, "ioctl", 1, request) for request in (0x5401, 0x5450, 0x5412)] == [
        ALLOW,
        ALLOW,
        DENY,
    ]
    assert [bounded(machine, "prctl", option) for option in (15, 16, 1, 4, 22, 38)] == [
        ALLOW,
        ALLOW,
        *[DENY] * 4,
    ]
    assert [bounded(machine, "fcntl", 3, command) for command in (1, 6, 8, 1024, 1031)] == [
        ALLOW,
        ALLOW,
        *[DENY] * 3,
    ]
    assert [bounded(machine, "prlimit64", pid) for pid in (0, 1, 4711)] == [ALLOW, DENY, DENY]


def test_it_is_short_enough_for_the_kernel() -> None:
    assert all(len(build_filter(machine)) // 8 <= 4096 for machine in MACHINES)
    with pytest.raises(OSError, match="s390x"):
        build_filter("s390x")


def test_the_kernel_takes_it() -> None:
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
