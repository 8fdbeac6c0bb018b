"""Numbers of the system calls that a program in a jail may make. (Runs inside a jail.)

They are enough to compute, to use threads, and to handle its own files. A call that is not listed fails with
EPERM, so that calls of a newer kernel are refused too. Missing on purpose: sockets, processes, executing
programs, mounts, signals to other processes, permissions and owners of files, devices, shared memory, other
processes' memory, setting clocks, and every setting of the kernel. Numbers: the kernel's `asm/unistd_64.h`
(x86_64) and `asm-generic/unistd.h` (aarch64).
"""

from __future__ import annotations

import errno

MACHINES = ("x86_64", "aarch64")
AUDIT = (0xC000003E, 0xC00000B7)
"""AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64, both 64-bit and little-endian: the word that identifies the
architecture in a filter."""

# fmt: off
ALLOWED: tuple[tuple[str, int | None, int | None], ...] = (
    # Files and folders, which the mounts and Landlock bound.
    ("read", 0, 63), ("write", 1, 64), ("readv", 19, 65), ("writev", 20, 66), ("pread64", 17, 67),
    ("pwrite64", 18, 68), ("preadv", 295, 69), ("pwritev", 296, 70), ("preadv2", 327, 286),
    ("pwritev2", 328, 287), ("open", 2, None), ("openat", 257, 56), ("creat", 85, None), ("close", 3, 57),
    ("close_range", 436, 436), ("stat", 4, None), ("fstat", 5, 80), ("lstat", 6, None),
    ("newfstatat", 262, 79), ("statx", 332, 291), ("statfs", 137, 43), ("fstatfs", 138, 44),
    ("access", 21, None), ("faccessat", 269, 48), ("faccessat2", 439, 439), ("lseek", 8, 62),
    ("getdents64", 217, 61), ("getcwd", 79, 17), ("chdir", 80, 49), ("fchdir", 81, 50), ("rename", 82, None),
    ("renameat", 264, 38), ("renameat2", 316, 276), ("mkdir", 83, None), ("mkdirat", 258, 34),
    ("rmdir", 84, None), ("unlink", 87, None), ("unlinkat", 263, 35), ("link", 86, None), ("linkat", 265, 37),
    ("symlink", 88, None), ("symlinkat", 266, 36), ("readlink", 89, None), ("readlinkat", 267, 78),
    ("truncate", 76, 45), ("ftruncate", 77, 46), ("fallocate", 285, 47), ("fadvise64", 221, 223),
    ("fsync", 74, 82), ("fdatasync", 75, 83), ("sendfile", 40, 71), ("copy_file_range", 326, 285),
    ("umask", 95, 166), ("dup", 32, 23), ("dup2", 33, None), ("dup3", 292, 24), ("pipe", 22, None),
    ("pipe2", 293, 59), ("poll", 7, None), ("ppoll", 271, 73), ("select", 23, None), ("pselect6", 270, 72),
    ("epoll_create1", 291, 20), ("epoll_ctl", 233, 21), ("epoll_wait", 232, None), ("epoll_pwait", 281, 22),
    # Memory, which a limit bounds.
    ("mmap", 9, 222), ("mprotect", 10, 226), ("munmap", 11, 215), ("mremap", 25, 216), ("madvise", 28, 233),
    ("msync", 26, 227), ("brk", 12, 214),
    # Threads, and signals to the process itself.
    ("futex", 202, 98), ("set_robust_list", 273, 99), ("get_robust_list", 274, 100),
    ("set_tid_address", 218, 96), ("rseq", 334, 293), ("sched_yield", 24, 124),
    ("sched_getaffinity", 204, 123), ("rt_sigaction", 13, 134), ("rt_sigprocmask", 14, 135),
    ("rt_sigreturn", 15, 139), ("rt_sigpending", 127, 136), ("rt_sigtimedwait", 128, 137),
    ("rt_sigsuspend", 130, 133), ("sigaltstack", 131, 132), ("tgkill", 234, 131), ("pause", 34, None),
    ("alarm", 37, None), ("setitimer", 38, 103), ("getitimer", 36, 102), ("restart_syscall", 219, 128),
    ("wait4", 61, 260), ("waitid", 247, 95), ("exit", 60, 93), ("exit_group", 231, 94),
    # Time and random bytes.
    ("gettimeofday", 96, 169), ("clock_gettime", 228, 113), ("clock_getres", 229, 114),
    ("clock_nanosleep", 230, 115), ("nanosleep", 35, 101), ("time", 201, None), ("times", 100, 153),
    ("getrandom", 318, 278),
    # Information about the process itself.
    ("getpid", 39, 172), ("getppid", 110, 173), ("gettid", 186, 178), ("getuid", 102, 174),
    ("geteuid", 107, 175), ("getgid", 104, 176), ("getegid", 108, 177), ("getresuid", 118, 148),
    ("getresgid", 120, 150), ("getgroups", 115, 158), ("getpgrp", 111, None), ("getpgid", 121, 155),
    ("getsid", 124, 156), ("uname", 63, 160), ("sysinfo", 99, 179), ("getrusage", 98, 165),
    ("getrlimit", 97, 163), ("getcpu", 309, 168),
)
"""(name, number on x86_64, number on aarch64); None where the architecture lacks it."""
BOUNDED: tuple[tuple[str, int, int], ...] = (
    ("clone", 56, 220), ("clone3", 435, 435), ("fcntl", 72, 25), ("ioctl", 16, 29), ("prctl", 157, 167),
    ("prlimit64", 302, 261),
)
"""Calls that are allowed with some arguments only."""
# fmt: on


def numbers(machine: str) -> tuple[int, ...]:
    """Numbers of the calls that are allowed with any argument, in the order of the table.

    Raises:
        OSError: if there is no table for this machine.
    """
    column = _column(machine)
    return tuple(number for row in ALLOWED if isinstance(number := row[column], int))


def number(machine: str, name: str) -> int:
    """Number of a call that is allowed with some arguments only.

    Raises:
        OSError: if there is no table for this machine.
    """
    column = _column(machine)
    return next(int(row[column]) for row in BOUNDED if row[0] == name)


def audit_architecture(machine: str) -> int:
    """Word that identifies the architecture in a filter.

    Raises:
        OSError: if there is no table for this machine.
    """
    return AUDIT[_column(machine) - 1]


def _column(machine: str) -> int:
    """Column of the architecture in the tables."""
    if machine not in MACHINES:
        raise OSError(
            errno.ENOSYS, f"seccomp: no table of system calls for {machine}, only for {', '.join(MACHINES)}"
        )
    return 1 + MACHINES.index(machine)
