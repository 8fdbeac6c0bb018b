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


def jail(**heard: Any) -> Jail:
    """A jail that has ended; "control" holds the messages of its own code."""
    control = json.dumps(heard.pop("control", {})).encode() + b"\n"
    texts = {
        name: bytearray(text.encode())
        for name, text in {"stdout": "", "stderr": "", "verdict": "", **heard}.items()
    }
    process = subprocess.Popen(["true"])
    process.wait()
    return Jail(process, True, {}, {**texts, "control": bytearray(control)})


def program(code: int, cause: str = "ended", cpu: float = 0.0, **heard: str) -> tuple[str, str]:
    found = outcome.program_outcome(
        jail(control={"end": code, "cpu": cpu}, **heard), 0, Ending(cause, 1.0), LIMITS
    )
    assert found.seconds == 1.0
    assert (found.code is None) == (cause != "ended")
    return found.status, found.reason


def test_a_program_that_ended() -> None:
    assert program(0) == ("ok", "ended with exit code 0")
    assert program(3) == ("error", "ended with exit code 3")
    assert program(3, stderr="ValueError: no") == ("error", "ended with exit code 3")
    assert program(1, stderr="Traceback\n  File\nValueError: no\n") == ("error", "raised ValueError: no")
    assert program(1, stderr="json.decoder.JSONDecodeError: no") == (
        "error",
        "raised json.decoder.JSONDecodeError: no",
    )
    assert program(1, stderr="something is wrong: here") == ("error", "ended with exit code 1")
    assert program(1, stderr="MemoryError") == ("memory", "raised MemoryError")


def test_a_program_that_was_ended() -> None:
    assert program(-9, "timeout") == ("timeout", "not done after 2 s")
    assert program(-9, "output") == ("output", "printed more than 100 bytes")
    assert program(-signal.SIGSEGV) == ("crash", "crashed: SIGSEGV")
    assert program(-40) == ("crash", "crashed: signal 40")
    assert program(-9, cpu=3.0)[0] == "timeout"
    assert program(-9)[0] == "killed"


def test_a_reason_is_a_line_that_can_be_shown() -> None:
    _, reason = program(1, stderr="ValueError: \x1b[2J\x07\u202e red\ttext")
    assert reason.isprintable()
    assert reason.startswith("raised ValueError: ")


def test_without_isolation_the_exit_code_is_the_process_own() -> None:
    found = outcome.program_outcome(jail(control={"ready": []}), 7, Ending("ended", 1.0), LIMITS)
    assert (found.status, found.code) == ("error", 7)


def judged_by(
    verdict: list[str] | None, judge: int = 0, candidate: int = 0, cause: str = "enough"
) -> tuple[str, str]:
    text = "" if verdict is None else json.dumps(verdict) + "\n"
    pair = jail(verdict=text, control={"end": judge}), jail(control={"end": candidate})
    found = outcome.tests_outcome(*pair, (0, 0), Ending(cause, 1.0), LIMITS)
    return found.status, found.reason


def test_a_verdict_is_taken_as_it_is() -> None:
    assert judged_by(["ok", "all tests passed"]) == ("ok", "all tests passed")
    assert judged_by(["wrong", "wrong answer: x"], cause="timeout") == ("wrong", "wrong answer: x")


@pytest.mark.parametrize(("code", "status"), [(0, "error"), (5, "error"), (-11, "crash"), (-9, "killed")])
def test_a_candidate_that_was_lost(code: int, status: str) -> None:
    found, reason = judged_by(["lost", ""], candidate=code)
    assert found == status
    assert "before the verdict" in reason or found == "crash"


def test_no_verdict_is_never_a_pass() -> None:
    assert judged_by(None, cause="timeout") == ("timeout", "not done after 2 s")
    assert judged_by(None, cause="ended")[0] == "broken"
    assert judged_by(None, judge=1, cause="ended")[0] == "error"
    assert judged_by(None, judge=-9, cause="ended")[0] == "killed"
