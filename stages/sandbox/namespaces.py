"""Namespaces: a jail has its own mounts, processes, network, IPC, host name and control groups. (Runs inside
a jail.)

With the right to (root outside a container) they are made directly; without, in a user namespace of one's
own, which most kernels let everybody make. What follows needs the rights which that gives; `drop` then gives
them all up.
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
    call,
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


def enter() -> tuple[str, ...]:
    """Moves this process into new namespaces, and its future children into a new process namespace.

    Returns:
        The names of those that are new, "user" among them if one was needed.

    Raises:
        OSError: if the kernel refuses, or says yes and does nothing.
    """
    flags = sum(flag for _, _, flag in KINDS)
    user, group = os.geteuid(), os.getegid()
    before = _links()
    try:
        call("unshare", flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        call("unshare", flags | NEW_USER)
        _map(user, group)
    changed = tuple(name for name, now in _links().items() if now != before[name])
    if missing := [name for name, _, _ in KINDS if name not in changed]:
        raise OSError(errno.ENOSYS, f"unshare: the namespaces {', '.join(missing)} did not change")
    return changed


def own_user(number: int) -> int:
    """Chooses the user that a jail runs as, of which no other process is.

    The kernel counts processes, threads and pending signals for each user (and user namespace): were all
    jails one user, the threads of one would leave none to its neighbours. In a user namespace of its own a
    jail is `NOBODY`, whom the kernel counts apart (Linux 5.14).

    Args:
        number: that no other living jail of this machine has, such as a process's.

    Returns:
        A user above those that systems give out, as far as this user namespace has such; else from the end of
        its largest range; else `NOBODY`.
    """
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    space = os.stat("/proc/self/ns/pid").st_ino % 2**8  # numbers are those of a process namespace
    wanted = 2**30 + space * 2**22 + number % 2**22
    if any(first <= wanted < first + count for first, _, count in ranges):
        return wanted
    first, _, count = max(ranges, key=lambda found: found[2])
    return first + count - 1 - number % (count // 2) if count >= 2**10 else NOBODY


def drop(*, mapped: bool, user: int = NOBODY) -> None:
    """Gives up every right, for good: user and group, capabilities, and what an execve could bring back.

    Args:
        mapped: in a user namespace of its own, where user and group are `NOBODY` already, and other groups
            cannot be given up (they open nothing: no file of theirs is in sight).
        user: to become, from `own_user`, if not mapped.

    Raises:
        OSError: if something of it cannot be done.
    """
    call("sethostname", b"jail", 4)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: the kernel has no more of them
                raise
            break
    if not mapped:
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    user = NOBODY if mapped else user
    os.setresuid(user, user, user)
    call("capset", _words(CAPABILITY_VERSION, 0), _words(*[0] * 6))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    die_with_parent()  # again: a change of the user clears it


def die_with_parent() -> None:
    """Lets the kernel kill this process when the thread that started it ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def dropped() -> bool:
    """Tells whether nothing is left of what `drop` gives up."""
    sets = _words(*[0] * 6)
    call("capget", _words(CAPABILITY_VERSION, 0), sets)
    powerless = 0 not in os.getresuid() and len({*os.getresuid()}) == 1 and {*os.getresgid()} == {NOBODY}
    return not any(sets) and powerless and prctl(PR_GET_NO_NEW_PRIVS) == 1


def _links() -> dict[str, str]:
    """Which namespace of each kind this process, or its next child, is in; "" if the kernel has made none
    yet."""

    def read(link: str) -> str:
        try:
            return os.readlink(f"/proc/self/ns/{link}")
        except OSError:
            return ""

    return {name: read(link) for name, link, _ in (*KINDS, ("user", "user", NEW_USER))}


def _map(user: int, group: int) -> None:
    """Makes the user of before the only user of the new namespace, where it is called `NOBODY`."""
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


def _words(*values: int) -> ctypes.Array:
    return (ctypes.c_uint32 * len(values))(*values)
