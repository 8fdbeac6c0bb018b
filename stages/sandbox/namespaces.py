"""Namespaces of a jail. (Runs inside a jail.)

A jail has its own mounts, processes, network, IPC, host name and control groups.

With CAP_SYS_ADMIN (root outside a container) the namespaces are made directly; else in a new user namespace,
which most kernels let every user make. The later steps need the capabilities that this gives;
`drop_privileges` then drops them all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

from stages.sandbox.kernel import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_GET_NO_NEW_PRIVS,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    call_libc,
    prctl,
)

NOBODY = 65534
NEW_USER = 0x10000000
KINDS = (
    ("mount", "mnt", 0x00020000),
    ("pid", "pid_for_children", 0x20000000),
    ("net", "net", 0x40000000),
    ("ipc", "ipc", 0x08000000),
    ("uts", "uts", 0x04000000),
    ("cgroup", "cgroup", 0x02000000),
)
"""(name, its link below /proc/self/ns, its flag for unshare)."""
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two 32-bit words for each set


def enter_namespaces() -> tuple[str, ...]:
    """Move this process into new namespaces, and its future children into a new process namespace.

    Returns:
        Names of the new namespaces, "user" among them if one was needed.

    Raises:
        OSError: if the kernel refuses, or reports success without an effect.
    """
    flags = sum(flag for _, _, flag in KINDS)
    user, group = os.geteuid(), os.getegid()
    before = _namespace_ids()
    try:
        call_libc("unshare", flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        call_libc("unshare", flags | NEW_USER)
        _map_user(user, group)
    changed = tuple(name for name, now in _namespace_ids().items() if now != before[name])
    if missing := [name for name, _, _ in KINDS if name not in changed]:
        raise OSError(errno.ENOSYS, f"unshare: the namespaces {', '.join(missing)} did not change")
    return changed


def choose_user(number: int) -> int:
    """Choose the user id that a jail runs as, which no other process has.

    The kernel counts processes, threads and pending signals per user (and user namespace): if all jails ran
    as one user, the threads of one jail would use up the limit of the others. In its own user namespace a
    jail is `NOBODY`, counted per namespace (Linux 5.14).

    Args:
        number: a number that no other running jail of this machine has, such as a process id.

    Returns:
        A user id above those that systems assign, if this user namespace has one; else from the end of its
        largest range; else `NOBODY`.
    """
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    namespace = os.stat("/proc/self/ns/pid").st_ino % 2**8  # process ids are unique per process namespace
    preferred = 2**30 + namespace * 2**22 + number % 2**22
    if any(first <= preferred < first + count for first, _, count in ranges):
        return preferred
    first, _, count = max(ranges, key=lambda row: row[2])
    return first + count - 1 - number % (count // 2) if count >= 2**10 else NOBODY


def drop_privileges(*, mapped: bool, user: int = NOBODY) -> None:
    """Drop every privilege irrevocably: user and group, capabilities, and what an execve could restore.

    Args:
        mapped: True if the jail is in its own user namespace, where user and group are `NOBODY` already, and
            other groups cannot be dropped (they give access to nothing: no file of theirs is visible).
        user: id to become, from `choose_user`, if not mapped.

    Raises:
        OSError: if a step fails.
    """
    call_libc("sethostname", b"jail", 4)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: the kernel has no further capability
                raise
            break
    if not mapped:
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    user = NOBODY if mapped else user
    os.setresuid(user, user, user)
    call_libc("capset", _uint32_array(CAPABILITY_VERSION, 0), _uint32_array(*[0] * 6))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    die_with_parent()  # again: changing the user id clears it


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def has_no_privileges() -> bool:
    """Return True if the process has none of the privileges that `drop_privileges` drops."""
    sets = _uint32_array(*[0] * 6)
    call_libc("capget", _uint32_array(CAPABILITY_VERSION, 0), sets)
    powerless = 0 not in os.getresuid() and len({*os.getresuid()}) == 1 and {*os.getresgid()} == {NOBODY}
    return not any(sets) and powerless and prctl(PR_GET_NO_NEW_PRIVS) == 1


def _namespace_ids() -> dict[str, str]:
    """Namespace of each kind of this process, or of its next child; "" if the kernel has made none yet."""

    def read(link: str) -> str:
        try:
            return os.readlink(f"/proc/self/ns/{link}")
        except OSError:
            return ""

    return {name: read(link) for name, link, _ in (*KINDS, ("user", "user", NEW_USER))}


def _map_user(user: int, group: int) -> None:
    """Map the outer user to the only user of the new namespace, `NOBODY`."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, f"{name}: {error.strerror}") from None


def _uint32_array(*values: int) -> ctypes.Array:
    return (ctypes.c_uint32 * len(values))(*values)
