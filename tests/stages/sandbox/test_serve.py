"""`run_tests`: a function in one jail, its tests in another."""

from __future__ import annotations

import pytest

from stages.sandbox import sandbox, serve
from stages.sandbox.sandbox import MIB, Isolation, Outcome


def judge(candidate: str, check: str, prelude: str = "") -> Outcome:
    body = "\n".join("    " + line for line in check.splitlines())
    return sandbox.run_tests(
        candidate, f"def check(f):\n{body}", prelude=prelude, entry_point="f", timeout=20, memory=128 * MIB
    )


def test_plain_values_round_trip_between_tests_and_candidate(isolation: Isolation) -> None:
    check = """
import math
values = [None, True, 1, 10**5000, 1.5, 2j, "t", b"b", [1], (1,), {1: [2]}, {1}, frozenset([1]), range(3)]
for x in [*values, values, [(1, {"a": {2}})]]:
    assert f(x) == x and type(f(x)) is type(x)
assert f(x=3) == 3 and math.isnan(f(float("nan")))
assert f.__name__ == "f"
"""
    assert judge("def f(x): return x", check).reason == "all tests passed"


def test_the_candidate_keeps_its_state(isolation: Isolation) -> None:
    candidate = "calls = []\ndef f(x):\n    calls.append(x)\n    return calls"
    assert judge(candidate, "f(1)\nassert f(2) == [1, 2]").status == "ok"


def test_the_tests_can_call_the_prelude_and_the_candidate(isolation: Isolation) -> None:
    prelude = "def double(x): return 2 * x\ndef f(x):\n    '''Doubles x.'''\n"
    candidate = "def f(x): return x + x"
    tests = "def check(candidate):\n    assert candidate(3) == double(3) == f(3)\n"
    found = sandbox.run_tests(candidate, tests, prelude=prelude, entry_point="f", timeout=20)
    assert found.status == "ok", found


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("raise ValueError('why')", "ValueError", "why"),
        ("return {}['k']", "KeyError", "'k'"),
        ("return 1 / 0", "ZeroDivisionError", "division by zero"),
        ("return f(x)", "RecursionError", "maximum recursion"),
        ("import json; json.loads('')", "ValueError", "JSONDecodeError: "),
        ("b''.decode('utf8', x); b'\\xff'.decode()", "RuntimeError", ""),
        ("raise type('Mine', (Exception,), {})('why')", "RuntimeError", "Mine: why"),
        ("raise type('Mine', (LookupError,), {})('why')", "LookupError", "Mine: why"),
        ("raise SystemExit(0)", "RuntimeError", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "RuntimeError", "KeyboardInterrupt"),
    ],
)
def test_errors_of_the_candidate_reach_the_tests(
    isolation: Isolation, body: str, kind: str, text: str
) -> None:
    check = (
        f"try: f('strict')\nexcept {kind} as error: assert {text!r} in str(error), error\nelse: assert False"
    )
    if "decode('utf8'" in body:
        check = "try: f('strict')\nexcept RuntimeError as error: assert 'UnicodeDecodeError' in str(error)"
    found = judge(f"def f(x):\n    {body}", check)
    assert found.status == "ok", found


@pytest.mark.parametrize(
    ("candidate", "status", "reason"),
    [
        (
            "def f(x): return x",
            "wrong",
            "wrong answer: line 2 of the tests: assert f(1) == 2, 'not 2' (not 2)",
        ),
        (
            "def f(x): return None",
            "wrong",
            "wrong answer: line 2 of the tests: assert f(1) == 2, 'not 2' (not 2)",
        ),
        ("def f(x): raise ValueError('why')", "error", "raised ValueError: why"),
        ("def f(x) return x", "syntax", "does not compile: SyntaxError: "),
        (
            "import nothing_like_it\ndef f(x): return 2",
            "error",
            "raised ModuleNotFoundError: No module named",
        ),
        (
            "x = 1\ny = 1 / 0",
            "error",
            "raised ZeroDivisionError: division by zero, when it was loaded (line 2)",
        ),
        ("def g(x): return 2", "error", "does not define a function f"),
        ("def f(x): return {}.keys()", "refused", "returned a dict_keys, which is no plain value"),
        ("def f(x): return [bytearray(2**30)]", "memory", "raised MemoryError"),
        ("import os\ndef f(x): os._exit(0)", "error", "ended with exit code 0 before the verdict"),
        ("import os\ndef f(x): os._exit(5)", "error", "ended with exit code 5 before the verdict"),
        ("import ctypes\ndef f(x): ctypes.string_at(0)", "crash", "crashed: SIGSEGV"),
    ],
)
def test_each_kind_of_failure_has_its_status_and_reason(
    isolation: Isolation, candidate: str, status: str, reason: str
) -> None:
    found = judge(candidate, "assert f(1) == 2, 'not 2'")
    assert (found.status, found.reason[: len(reason)]) == (status, reason)


def test_an_error_of_the_comparison_is_a_wrong_answer(isolation: Isolation) -> None:
    found = judge("def f(x): return None", "assert f(1) < 2")
    assert found.status == "wrong"
    assert "assert f(1) < 2 (TypeError: " in found.reason


def test_tests_that_catch_every_error_cannot_hide_an_exit(isolation: Isolation) -> None:
    swallow = "for _ in range(3):\n    try: f(1)\n    except BaseException: pass"
    assert judge("def f(x): raise ValueError", swallow).status == "ok"
    assert judge("import os\ndef f(x): os._exit(0)", swallow).status == "error"
    assert judge("def f(x): return object()", swallow).status == "refused"


@pytest.mark.parametrize("check", ["f(lambda: 1)", "f(object())"])
def test_values_that_the_tests_cannot_send_are_reported(isolation: Isolation, check: str) -> None:
    found = judge("def f(x): return x", check)
    assert found.status == "refused"
    assert found.reason.startswith("the tests call f with a ")


def test_tests_that_fail_to_load_are_broken(isolation: Isolation) -> None:
    assert judge("def f(x): return x", "pass", prelude="1 / 0").status == "broken"
    found = sandbox.run_tests("def f(x): return x", "def check(f) pass", entry_point="f", timeout=20)
    assert (found.status, found.reason[:23]) == ("broken", "the tests are broken: S")


def test_invalid_messages_are_recognised() -> None:
    messages = (["ready"], ["value", []], ["raised", "E", ""], ["failed", "E", "", "1"])
    invalid = (1, [], [[]], ["value"], ["ready", 1], ["raised", "E", 1], ["call", 1, 2])
    assert all(serve._is_message(message) for message in messages)
    assert not any(serve._is_message(message) for message in invalid)
