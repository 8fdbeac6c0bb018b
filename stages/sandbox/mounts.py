"""File system of a jail: Python's libraries, read-only; devices; an empty /tmp. (Runs inside a jail.)

It has no /etc, /home, /proc or /sys, no program to execute, and no installed package.
"""

from __future__ import annotations

import ctypes
import os
import sys

from stages.sandbox.kernel import MOUNT_SETATTR, call_libc, system_call

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8
BIND, RECURSIVE, PRIVATE = 0x1000, 0x4000, 0x40000
AT_CWD, AT_RECURSIVE, DETACH = -100, 0x8000, 2
NEW_ROOT = "/proc"  # where the new root is assembled: it always exists, and no library lies below it
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
SCRATCH = "/tmp"
INODES = 1024
MAX_LINKS = 40  # as in the kernel


def build_root(disk: int) -> list[str]:
    """Make a new root and detach the old one. The current folder becomes /tmp.

    Args:
        disk: bytes that /tmp can hold, in memory.

    Returns:
        Paths of the library folders in the new root.

    Steps:
        1. Make later mounts private to this process and its children.
        2. Mount a root in memory.
        3. Mount /tmp, with a limit on bytes and on files.
        4. Bind libraries read-only, and cover folders of installed packages by empty ones.
        5. Bind devices.
        6. Make the root read-only, switch to it, and detach the old root.

    Raises:
        OSError: if the kernel refuses a step.
    """
    paths = find_library_folders()
    # 1. Private mounts.
    call_libc("mount", None, b"/", None, RECURSIVE | PRIVATE, None)
    # 2. The root.
    _mount_tmpfs(NEW_ROOT, NO_SUID | NO_DEV | NO_EXEC, "size=1m,nr_inodes=1k,mode=755")
    # 3. /tmp, before the libraries: they may lie below it.
    os.mkdir(NEW_ROOT + SCRATCH)
    _mount_tmpfs(NEW_ROOT + SCRATCH, NO_SUID | NO_DEV | NO_EXEC, f"size={disk},nr_inodes={INODES},mode=1777")
    # 4. Libraries.
    folders: list[str] = []
    for path in sorted(paths):
        _expose_folder(path, folders)
    _hide_packages(folders)
    # 5. Devices.
    for path in DEVICES:
        _bind_path(path, NO_SUID | NO_EXEC)
    # 6. Switch to the new root.
    _restrict_mount(NEW_ROOT, READ_ONLY, recursive=False)
    os.chdir(NEW_ROOT)
    call_libc("pivot_root", b".", b".")
    call_libc("umount2", b".", DETACH)
    os.chdir(SCRATCH)
    return folders


def find_library_folders() -> list[str]:
    """List the folders of Python's modules and of the shared libraries that they need.

    The latter are the folders of all shared libraries that are loaded now (except libpython, which is not
    loaded again), and their counterparts: a library in /lib/x may need one in /usr/lib/x.
    """
    with open("/proc/self/maps") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if "/" in line}
    loaded = {os.path.dirname(path) for path in paths if ".so" in path and "libpython" not in path}
    counterparts = {path[4:] if path.startswith("/usr/") else f"/usr{path}" for path in loaded}
    paths = {*sys.path, *loaded, *counterparts}
    return [path for path in paths if path.startswith("/") and os.path.exists(path)]


def _expose_folder(path: str, folders: list[str]) -> None:
    """Bind a path into the new root, with the symbolic links on the way to it. Appends to `folders`."""
    for _ in range(MAX_LINKS):
        parts = path.strip("/").split("/")
        parents = ["/" + "/".join(parts[: i + 1]) for i in range(len(parts))]
        link = next((parent for parent in parents if os.path.islink(parent)), None)
        if link is None:
            break
        os.makedirs(os.path.dirname(NEW_ROOT + link), exist_ok=True)
        if not os.path.lexists(NEW_ROOT + link):
            os.symlink(os.readlink(link), NEW_ROOT + link)
        rest = parts[link.count("/") :]
        path = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link), *rest))
    if not any(path == folder or path.startswith(folder + "/") for folder in folders):
        _bind_path(path, READ_ONLY | NO_SUID | NO_DEV)
        folders.append(path)


def _hide_packages(folders: list[str]) -> None:
    """Mount an empty folder over each folder of installed packages."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in folders:
        for subfolder in ("", "python3", python):
            for packages in ("site-packages", "dist-packages"):
                path = os.path.join(NEW_ROOT + folder, subfolder, packages)
                if os.path.isdir(path):
                    _mount_tmpfs(path, READ_ONLY | NO_SUID | NO_DEV | NO_EXEC, "size=4k,nr_inodes=2,mode=755")


def _bind_path(path: str, flags: int) -> None:
    """Bind a file or folder of the old root into the new one, under the same path."""
    target = NEW_ROOT + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    call_libc("mount", os.fsencode(path), os.fsencode(target), None, BIND | RECURSIVE, None)
    _restrict_mount(target, flags, recursive=True)


def _mount_tmpfs(path: str, flags: int, options: str) -> None:
    """Mount an empty file system in memory."""
    call_libc("mount", b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode())


def _restrict_mount(path: str, flags: int, *, recursive: bool) -> None:
    """Add flags to a mount. Uses mount_setattr(2): mount(2) would not reach submounts and would need root."""
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    depth = AT_RECURSIVE if recursive else 0
    system_call("mount_setattr", MOUNT_SETATTR, AT_CWD, os.fsencode(path), depth, attributes, 32)
