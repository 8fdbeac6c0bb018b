"""A jail from the inside: the interpreter that a program gets, its limits, and how it ends."""

from __future__ import annotations

import ast
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.sandbox import sandbox, start
from stages.sandbox.sandbox import MIB, Isolation, Outcome
from tests.rules.source import ROOT


def run(program: str, memory: int = 128 * MIB) -> Outcome:
    return sandbox.run_program(program, timeout=20, memory=memory)


def test_a_program_finds_a_fresh_interpreter(isolation: Isolation) -> None:
    program = """
import os, sys
names = [name for name in sys.modules if name.startswith(("stages", "jail"))]
print((__name__, sys.argv, dict(os.environ), names, sys.stdin.read(), sorted(globals())))
"""
    name, argv, environment, our_modules, standard_input, names = ast.literal_eval(run(program).stdout)
    assert (name, argv, environment, our_modules, standard_input) == ("__main__", [""], {}, [], "")
    assert set(names) >= {"__builtins__", "__name__", "names"}
    assert not [name for name in names if not name.startswith("__") and name not in ("names", "os", "sys")]


def test_sets_and_hashes_are_the_same_in_every_run(isolation: Isolation) -> None:
    assert len({run("print(set('abcdefgh'), hash('text'))").stdout for _ in range(3)}) == 1


def test_the_smallest_memory_limit_is_enough_to_start(isolation: Isolation) -> None:
    assert run("import json, typing, collections; print(1)", memory=64 * MIB).status == "ok"


def test_memory_core_and_file_limits_are_set_in_the_jail_only(isolation: Isolation) -> None:
    program = (
        "import resource as r; print([r.getrlimit(w) for w in (r.RLIMIT_AS, r.RLIMIT_CORE, r.RLIMIT_NOFILE)])"
    )
    files = start.MAX_OPEN_FILES
    assert ast.literal_eval(run(program).stdout) == [(128 * MIB, 128 * MIB), (0, 0), (files, files)]
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 128 * MIB


def test_outcomes_by_the_way_a_program_ends(isolation: Isolation) -> None:
    assert run("print('x')")[:3] == ("ok", 0, "x\n")
    assert run("import sys; sys.exit(3)")[:2] == ("error", 3)
    assert run("import sys; sys.exit('why')")[1:4] == (1, "", "why\n")
    assert run("exit(4)")[:2] == ("error", 4)
    assert run("quit()")[:2] == ("ok", 0)
    assert run("import atexit; atexit.register(print, 'late'); print('early')").stdout == "early\nlate\n"
    assert run("import threading, time\nthreading.Timer(0.05, print, ['late']).start()").stdout == "late\n"
    assert run("import os; os.abort()").status == "crash"


def test_a_traceback_shows_the_program_only(isolation: Isolation) -> None:
    error = run("def f():\n    return 1 / 0\n\nf()").stderr
    assert error.count("File ") == 2
    assert 'File "<program>", line 2, in f' in error
    assert run("x = (").reason.startswith("raised SyntaxError: ")


def test_a_program_does_not_inherit_our_future_imports(isolation: Isolation) -> None:
    assert run("def f(x: 1 + 1): pass\nprint(f.__annotations__)").stdout == "{'x': 2}\n"


def test_only_the_three_standard_descriptors_are_open(isolation: Isolation) -> None:
    program = "import os\nfor fd in range(200):\n try: os.fstat(fd); print(fd)\n except OSError: pass"
    assert run(program).stdout.split() == ["0", "1", "2"]


@pytest.mark.parametrize("victim", ["supervisor", "parent"])
def test_no_process_outlives_its_starter(isolation: Isolation, victim: str) -> None:
    """A killed supervisor, or a killed first process, takes the program along."""
    code = "from stages.sandbox import sandbox; sandbox.run_program('while True: pass', timeout=60)"
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        jail = _wait_for_descendants(supervisor.pid, 2)
        os.kill(supervisor.pid if victim == "supervisor" else jail[0], signal.SIGKILL)
        supervisor.wait(20)
        end = time.monotonic() + 10
        while (alive := [pid for pid in jail if _is_running(pid)]) and time.monotonic() < end:
            time.sleep(0.01)
        assert alive == []
    finally:
        supervisor.kill()
        supervisor.wait()


def _wait_for_descendants(pid: int, count: int) -> list[int]:
    """Wait until a process has `count` descendants, and return them, the eldest first."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found, parents = [], [pid]
        while parents:
            parents = [child for parent in parents for child in _child_processes(parent)]
            found += parents
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError("no jail was started")


def _child_processes(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
