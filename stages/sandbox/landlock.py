"""Landlock: a second restriction of file access, which holds even if a mount is wrong. (Runs inside a jail.)

On a kernel without it (before 5.13, or disabled) the other layers remain.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

from stages.sandbox.kernel import (
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE_RULESET,
    LANDLOCK_RESTRICT_SELF,
    system_call,
)

EXECUTE, WRITE, READ, LIST, REMOVE_FOLDER, REMOVE_FILE = (1 << i for i in range(6))
MAKE_FOLDER, MAKE_FILE, MAKE_LINK, REFER, TRUNCATE = 1 << 7, 1 << 8, 1 << 12, 1 << 13, 1 << 14
RIGHTS = (0, 13, 14, 15, 15, 16, 16, 16)
"""Number of file access rights that the kernel handles, indexed by the version of its interface."""
CONNECT = 0b11  # to bind and to connect TCP, from version 4
SCOPES = 0b11  # abstract sockets and signals, from version 6
SCRATCH = (
    REMOVE_FOLDER | REMOVE_FILE | MAKE_FOLDER | MAKE_FILE | MAKE_LINK | REFER | TRUNCATE | READ | WRITE | LIST
)
VERSION_FLAG, PATH_BENEATH = 1, 1


def version() -> int:
    """Return the version of the kernel's interface; 0 without Landlock."""
    try:
        return system_call("landlock_create_ruleset", LANDLOCK_CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


def restrict(folders: Sequence[str], devices: Sequence[str], scratch: str) -> int:
    """Restrict this process to read some folders, use some devices, and read and write one folder.

    Args:
        folders: library folders, to read.
        devices: device files.
        scratch: folder to read and write; not for sockets, pipes and devices, nor for programs to execute.

    Returns:
        Version of the kernel's interface; 0 if it has no Landlock, and nothing is restricted.

    Raises:
        OSError: if the kernel has Landlock but refuses a call.
    """
    supported = version()
    if not supported:
        return 0
    all_rights = (1 << RIGHTS[min(supported, len(RIGHTS) - 1)]) - 1
    attributes = [all_rights, CONNECT, SCOPES][: 1 + (supported >= 4) + (supported >= 6)]
    handled = (ctypes.c_uint64 * len(attributes))(*attributes)
    rules = system_call(
        "landlock_create_ruleset", LANDLOCK_CREATE_RULESET, handled, ctypes.sizeof(handled), 0
    )
    try:
        for path in folders:
            _allow_path(rules, path, READ | (LIST if os.path.isdir(path) else 0))
        for path in devices:
            _allow_path(rules, path, READ | WRITE)
        _allow_path(rules, scratch, SCRATCH & all_rights)
        system_call("landlock_restrict_self", LANDLOCK_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return supported


def _allow_path(rules: int, path: str, rights: int) -> None:
    """Add a rule that allows the access rights on a path, and below it if it is a folder."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)  # struct landlock_path_beneath_attr
        system_call("landlock_add_rule", LANDLOCK_ADD_RULE, rules, PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
