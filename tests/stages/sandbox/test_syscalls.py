"""The tables of system calls, against the kernel's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.sandbox import syscalls
from stages.sandbox.syscalls import ALLOWED, BOUNDED, MACHINES, audit_architecture, number, numbers

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
FORBIDDEN = frozenset(
    re.findall(
        r"\w+",
        """
socket connect bind sendmsg recvmsg socketpair fork vfork execve execveat kill tkill ptrace
process_vm_readv process_vm_writev pidfd_open mount umount2 pivot_root chroot unshare setns bpf
perf_event_open userfaultfd io_uring_setup keyctl add_key memfd_create shmget mq_open chmod fchmod chown
setxattr mknod mknodat utimensat setuid setresuid setrlimit init_module kexec_load reboot swapon
open_by_handle_at iopl ioperm modify_ldt personality seccomp clock_settime splice vmsplice mlock mlockall
inotify_init1 fanotify_init sethostname
""",
    )
)


@pytest.mark.parametrize("machine", MACHINES)
def test_call_numbers_equal_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    text = HEADERS[machine].read_text()
    kernel = {name: int(value) for _, name, value in re.findall(r"#define __NR(3264)?_(\w+) (\d+)\n", text)}
    kernel["newfstatat"] = kernel.get("newfstatat", kernel.get("fstatat", -1))
    column = 1 + MACHINES.index(machine)
    wrong = {
        row[0]: (row[column], kernel.get(row[0]))
        for row in (*ALLOWED, *BOUNDED)
        if row[column] != kernel.get(row[0])
    }
    assert wrong == {}


@pytest.mark.parametrize("machine", MACHINES)
def test_each_call_is_listed_once(machine: str) -> None:
    every = [*numbers(machine), *(number(machine, name) for name, _, _ in BOUNDED)]
    assert len(set(every)) == len(every) > 100
    names = [row[0] for row in (*ALLOWED, *BOUNDED)]
    assert len(set(names)) == len(names)


def test_calls_that_reach_outside_are_not_listed() -> None:
    assert {row[0] for row in ALLOWED} & FORBIDDEN == set()


def test_another_machine_is_refused() -> None:
    assert audit_architecture("x86_64") == 0xC000003E
    for look_up in (numbers, audit_architecture, lambda machine: number(machine, "clone")):
        with pytest.raises(OSError, match="riscv64"):
            look_up("riscv64")
    assert syscalls.MACHINES == ("x86_64", "aarch64")
