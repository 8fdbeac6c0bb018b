"""The file system of a jail: Python's own libraries, read-only; three devices; an empty /tmp. (Runs inside a
jail.)

There is no /etc, /home, /proc or /sys in it, no program to execute, and no package that was installed.
"""

from __future__ import annotations

import ctypes
import os
import sys

from stages.sandbox.kernel import MOUNT_SETATTR, call, system_call

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8
BIND, RECURSIVE, PRIVATE = 0x1000, 0x4000, 0x40000
AT_CWD, AT_RECURSIVE, DETACH = -100, 0x8000, 2
PLACE = "/proc"  # where the new root is put together: it surely exists, and no library lies below it
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
SCRATCH = "/tmp"
INODES = 1024


def build(disk: int) -> list[str]:
    """Makes a new root, and leaves the old one where nobody finds it. The current folder becomes /tmp.

    Args:
        disk: bytes that /tmp can hold, in memory.

    Returns:
        The folders with libraries, as they are called inside.

    Steps:
        1. What is mounted from here on is seen by this process and its children only.
        2. A root in memory.
        3. /tmp, with a bound on bytes and on files.
        4. Libraries, bound read-only, folders of installed packages covered by empty ones.
        5. Devices.
        6. The root itself read-only; it takes the old one's place, and the old one is let go.

    Raises:
        OSError: if the kernel refuses one of them.
    """
    wanted = libraries()
    # 1. Nothing reaches the outside.
    call("mount", None, b"/", None, RECURSIVE | PRIVATE, None)
    # 2. The root.
    _memory(PLACE, NO_SUID | NO_DEV | NO_EXEC, "size=1m,nr_inodes=1k,mode=755")
    # 3. A place to write, before the libraries: they may lie below it.
    os.mkdir(PLACE + SCRATCH)
    _memory(PLACE + SCRATCH, NO_SUID | NO_DEV | NO_EXEC, f"size={disk},nr_inodes={INODES},mode=1777")
    # 4. Libraries.
    folders: list[str] = []
    for path in sorted(wanted):
        _expose(path, folders)
    _cover(folders)
    # 5. Devices.
    for path in DEVICES:
        _bind(path, NO_SUID | NO_EXEC)
    # 6. In.
    _restrict(PLACE, READ_ONLY, recursive=False)
    os.chdir(PLACE)
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.chdir(SCRATCH)
    return folders


def libraries() -> list[str]:
    """Lists where Python finds its modules, and the linker the libraries which they need.

    The latter are the folders of all libraries that are loaded now (libpython's apart, it is not loaded
    again), and their twins: a library in /lib/x may need one in /usr/lib/x.
    """
    with open("/proc/self/maps") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if "/" in line}
    loaded = {os.path.dirname(path) for path in paths if ".so" in path and "libpython" not in path}
    twins = {path[4:] if path.startswith("/usr/") else f"/usr{path}" for path in loaded}
    return [path for path in {*sys.path, *loaded, *twins} if path.startswith("/") and os.path.exists(path)]


def _expose(path: str, folders: list[str]) -> None:
    """Binds a path into the new root; symbolic links on the way are made anew, and followed. Adds to
    `folders`."""
    for _ in range(40):
        parts = path.strip("/").split("/")
        ways = ["/" + "/".join(parts[: i + 1]) for i in range(len(parts))]
        link = next((way for way in ways if os.path.islink(way)), None)
        if link is None:
            break
        os.makedirs(os.path.dirname(PLACE + link), exist_ok=True)
        if not os.path.lexists(PLACE + link):
            os.symlink(os.readlink(link), PLACE + link)
        path = os.path.normpath(
            os.path.join(os.path.dirname(link), os.readlink(link), *parts[link.count("/") :])
        )
    if not any(path == folder or path.startswith(folder + "/") for folder in folders):
        _bind(path, READ_ONLY | NO_SUID | NO_DEV)
        folders.append(path)


def _cover(folders: list[str]) -> None:
    """Puts an empty folder over each folder of installed packages."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in folders:
        for below in ("", "python3", python):
            for packages in ("site-packages", "dist-packages"):
                path = os.path.join(PLACE + folder, below, packages)
                if os.path.isdir(path):
                    _memory(path, READ_ONLY | NO_SUID | NO_DEV | NO_EXEC, "size=4k,nr_inodes=2,mode=755")


def _bind(path: str, flags: int) -> None:
    """Shows a file or folder of the old root in the new one, under the same name."""
    target = PLACE + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    call("mount", os.fsencode(path), os.fsencode(target), None, BIND | RECURSIVE, None)
    _restrict(target, flags, recursive=True)


def _memory(path: str, flags: int, options: str) -> None:
    """Mounts an empty file system in memory."""
    call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode())


def _restrict(path: str, flags: int, *, recursive: bool) -> None:
    """Adds flags to a mount. (mount(2) cannot do it for the mounts below, nor as an ordinary user.)"""
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    depth = AT_RECURSIVE if recursive else 0
    system_call("mount_setattr", MOUNT_SETATTR, AT_CWD, os.fsencode(path), depth, attributes, 32)
