"""Namespaces and capabilities."""

from __future__ import annotations

import ast
import os

from stages.sandbox import namespaces, sandbox
from stages.sandbox.namespaces import NOBODY
from stages.sandbox.sandbox import Isolation
from tests.stages.sandbox.child_process import run_in_child

ENTER = """
import os
from stages.sandbox import namespaces
before = {name: os.readlink(f"/proc/self/ns/{link}") for name, link, _ in namespaces.KINDS if name != "pid"}
names = namespaces.enter_namespaces()
changed = [name for name, link, _ in namespaces.KINDS if name != "pid"
           and os.readlink(f"/proc/self/ns/{link}") != before[name]]
child = os.fork()
if child == 0:
    print("child", os.getpid(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print((names, changed, os.getuid()))
"""


def test_a_jail_enters_new_namespaces(isolation: Isolation) -> None:
    child, line = run_in_child(ENTER).splitlines()
    names, changed, user = ast.literal_eval(line)
    assert child == "child 1"
    assert names[:6] == ("mount", "pid", "net", "ipc", "uts", "cgroup")
    assert changed == ["mount", "net", "ipc", "uts", "cgroup"]
    assert ("user" in names) == (user == NOBODY)
    assert all(name in isolation.line for name in names)


def test_every_privilege_is_dropped(isolation: Isolation) -> None:
    output = run_in_child("""
import os
from stages.sandbox import namespaces
spaces = namespaces.enter_namespaces()
print(namespaces.has_no_privileges())
namespaces.drop_privileges(mapped="user" in spaces)
print(namespaces.has_no_privileges(), os.getresuid(), os.getresgid(), os.uname().nodename)
for action in (lambda: os.setuid(0), lambda: os.chroot("/"), lambda: os.setgroups([0])):
    try: action()
    except OSError: print("refused")
""")
    nobody = (NOBODY,) * 3
    assert output.splitlines() == ["False", f"True {nobody} {nobody} jail", *["refused"] * 3]


def test_a_program_runs_as_nobody_and_first_process(isolation: Isolation) -> None:
    program = "import os; print(os.getpid(), os.getppid(), os.getgid(), os.uname().nodename, os.getuid())"
    *rest, user = sandbox.run_program(program, timeout=20).stdout.split()
    assert rest == ["1", "0", str(NOBODY), "jail"]
    assert int(user) >= NOBODY
    assert os.uname().nodename != "jail"


def test_each_jail_has_a_user_of_its_own_or_nobody() -> None:
    """Nobody only if this user namespace has no ids to spare."""
    users = {namespaces.choose_user(number) for number in range(100, 120)}
    assert 0 not in users
    assert os.getuid() not in users
    assert len(users) == 20 or users == {NOBODY}


def test_namespace_flags_equal_the_kernels() -> None:
    assert sum(flag for _, _, flag in namespaces.KINDS) == 0x6E020000
