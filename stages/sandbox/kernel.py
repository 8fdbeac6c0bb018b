"""Calls of libc that Python has no function for. (Runs inside a jail.)"""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 39, 47, 4
MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 442, 444, 445, 446
"""Numbers of system calls; new enough to be the same on every architecture."""


def call_libc(name: str, *arguments: object) -> int:
    """Call a function of libc.

    Integers are passed as C longs, because ctypes would truncate them to 32 bits; bytes as a C string; None
    as a null pointer.

    Args:
        name: such as "unshare".
        arguments: of the function; ctypes objects are passed unchanged.

    Returns:
        The function's result.

    Raises:
        OSError: if the result is -1, with errno; the message begins with `name`.
    """
    ctypes.set_errno(0)
    result = getattr(LIBC, name)(*(ctypes.c_long(x) if isinstance(x, int) else x for x in arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def system_call(name: str, number: int, *arguments: object) -> int:
    """Make a system call that libc has no function for; the name is for the error.

    Raises:
        OSError: as `call_libc`.
    """
    try:
        return call_libc("syscall", number, *arguments)
    except OSError as error:
        raise OSError(error.errno, f"{name}: {os.strerror(error.errno or 0)}") from None


def prctl(option: int, *arguments: int) -> int:
    """Call prctl(2), its arguments padded to five with the zeros that some options require."""
    return call_libc("prctl", option, *arguments, *[0] * (4 - len(arguments)))
