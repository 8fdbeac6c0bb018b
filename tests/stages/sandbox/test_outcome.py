"""Outcome of a program: status and reason."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from stages.sandbox import outcome
from stages.sandbox.supervisor import Ending, Jail, Limits

LIMITS = Limits(2**27, 100, 2**20, 2.0)


def make_jail(**captured: Any) -> Jail:
    """A jail that has ended with these outputs; "control" holds the messages of the jail's own code."""
    control = json.dumps(captured.pop("control", {})).encode() + b"\n"
    texts = {
        name: bytearray(text.encode())
        for name, text in {"stdout": "", "stderr": "", "verdict": "", **captured}.items()
    }
    process = subprocess.Popen(["true"])
    process.wait()
    return Jail(process, True, {}, {**texts, "control": bytearray(control)})


def judge_program(code: int, cause: str = "ended", cpu: float = 0.0, **captured: str) -> tuple[str, str]:
    result = outcome.program_outcome(
        make_jail(control={"end": code, "cpu": cpu}, **captured), 0, Ending(cause, 1.0), LIMITS
    )
    assert result.seconds == 1.0
    assert (result.code is None) == (cause != "ended")
    return result.status, result.reason


def test_outcomes_of_programs_that_exited() -> None:
    assert judge_program(0) == ("ok", "ended with exit code 0")
    assert judge_program(3) == ("error", "ended with exit code 3")
    assert judge_program(3, stderr="ValueError: no") == ("error", "ended with exit code 3")
    assert judge_program(1, stderr="Traceback\n  File\nValueError: no\n") == (
        "error",
        "raised ValueError: no",
    )
    assert judge_program(1, stderr="json.decoder.JSONDecodeError: no") == (
        "error",
        "raised json.decoder.JSONDecodeError: no",
    )
    assert judge_program(1, stderr="something is wrong: here") == ("error", "ended with exit code 1")
    assert judge_program(1, stderr="MemoryError") == ("memory", "raised MemoryError")


def test_outcomes_of_programs_that_were_killed() -> None:
    assert judge_program(-9, "timeout") == ("timeout", "not done after 2 s")
    assert judge_program(-9, "output") == ("output", "printed more than 100 bytes")
    assert judge_program(-signal.SIGSEGV) == ("crash", "crashed: SIGSEGV")
    assert judge_program(-40) == ("crash", "crashed: signal 40")
    assert judge_program(-9, cpu=3.0)[0] == "timeout"
    assert judge_program(-9)[0] == "killed"


def test_a_reason_is_one_printable_line() -> None:
    _, reason = judge_program(1, stderr="ValueError: \x1b[2J\x07\u202e red\ttext")
    assert reason.isprintable()
    assert reason.startswith("raised ValueError: ")


def test_without_isolation_the_exit_code_of_the_process_counts() -> None:
    result = outcome.program_outcome(make_jail(control={"ready": []}), 7, Ending("ended", 1.0), LIMITS)
    assert (result.status, result.code) == ("error", 7)


def judge_tests(
    verdict: list[str] | None, judge_code: int = 0, candidate_code: int = 0, cause: str = "enough"
) -> tuple[str, str]:
    text = "" if verdict is None else json.dumps(verdict) + "\n"
    pair = make_jail(verdict=text, control={"end": judge_code}), make_jail(control={"end": candidate_code})
    result = outcome.tests_outcome(*pair, (0, 0), Ending(cause, 1.0), LIMITS)
    return result.status, result.reason


def test_a_verdict_decides_the_outcome() -> None:
    assert judge_tests(["ok", "all tests passed"]) == ("ok", "all tests passed")
    assert judge_tests(["wrong", "wrong answer: x"], cause="timeout") == ("wrong", "wrong answer: x")


@pytest.mark.parametrize(("code", "status"), [(0, "error"), (5, "error"), (-11, "crash"), (-9, "killed")])
def test_outcomes_of_a_candidate_that_ended_before_the_verdict(code: int, status: str) -> None:
    result, reason = judge_tests(["lost", ""], candidate_code=code)
    assert result == status
    assert "before the verdict" in reason or result == "crash"


def test_without_a_verdict_the_outcome_is_never_ok() -> None:
    assert judge_tests(None, cause="timeout") == ("timeout", "not done after 2 s")
    assert judge_tests(None, cause="ended")[0] == "broken"
    assert judge_tests(None, judge_code=1, cause="ended")[0] == "error"
    assert judge_tests(None, judge_code=-9, cause="ended")[0] == "killed"
