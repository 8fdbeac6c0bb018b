"""`kernel`: functions of libc and system calls, with errors that name the call."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from stages.sandbox.kernel import call_libc, prctl, system_call
from tests.stages.sandbox.child_process import run_in_child

PR_GET_NAME = 16
PR_GET_NO_NEW_PRIVS = 39


def test_a_call_returns_the_value_of_libc() -> None:
    assert call_libc("getpid") == os.getpid()


def test_bytes_and_none_are_pointers_and_integers_are_long() -> None:
    assert call_libc("strlen", b"four") == 4
    assert call_libc("access", b"/", 0) == 0
    with pytest.raises(OSError) as raised:
        call_libc("lseek", 10**9, 2**40, 0)
    assert raised.value.errno == errno.EBADF


def test_an_error_names_the_call() -> None:
    with pytest.raises(OSError, match="chdir: No such file") as raised:
        call_libc("chdir", b"/no/such/folder")
    assert raised.value.errno == errno.ENOENT


def test_an_error_of_a_system_call_has_the_given_name() -> None:
    with pytest.raises(OSError, match="landlock_add_rule: "):
        system_call("landlock_add_rule", 445, -1, 1, None, 0)


def test_prctl_gets_and_sets_attributes_of_the_process() -> None:
    name = ctypes.create_string_buffer(16)
    assert prctl(PR_GET_NAME, ctypes.addressof(name)) == 0
    assert name.value
    code = f"""
from stages.sandbox.kernel import *
prctl(PR_SET_NO_NEW_PRIVS, 1)
print(prctl({PR_GET_NO_NEW_PRIVS}))
"""
    assert run_in_child(code) == "1"
