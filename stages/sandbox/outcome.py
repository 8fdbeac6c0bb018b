"""Outcome of a program in a jail: its status, and one line that gives the reason."""

from __future__ import annotations

import json
import signal
from typing import NamedTuple

from stages.sandbox import supervisor
from stages.sandbox.supervisor import Ending, Jail, Limits

MAX_LINE = 300  # characters of an error line that a reason quotes


class Outcome(NamedTuple):
    """Status, exit code and output of a program that has ended.

    Fields:
        status: "ok"; "error" (it raised, or ended with another exit code than 0); "timeout"; "memory";
            "output" (it exceeded the limit); "crash" (it ended by a signal); "killed" (ended from outside,
            such as by the kernel when out of memory). Of `run_tests` also "wrong" (an answer), "syntax" (it
            does not compile), "refused" (an answer that is no plain value), "broken" (the tests themselves
            fail to run).
        code: its exit code, -N for signal N; None if it was stopped.
        stdout, stderr: its output, up to the limit.
        seconds: run time, without the start of the jail.
        reason: the status explained, one line, printable.
    """

    status: str
    code: int | None
    stdout: str
    stderr: str
    seconds: float
    reason: str


def program_outcome(jail: Jail, code: int, ending: Ending, limits: Limits) -> Outcome:
    """Return the outcome of a program.

    Args:
        jail: the jail that it ran in, which has ended.
        code: exit code of the jail's first process.
        ending: result of `supervisor.supervise`.
        limits: limits of the jail.

    Returns:
        Outcome.
    """
    stdout, stderr = (bytes(jail.captured[name]).decode(errors="replace") for name in ("stdout", "stderr"))
    code = _exit_code(jail, code)
    if ending.cause in ("timeout", "output"):
        status, reason = _describe_stop(ending.cause, limits)
        return Outcome(status, None, stdout, stderr, ending.seconds, reason)
    status, reason = _describe_code(jail, code, limits)
    if status == "error":
        lines = stderr.strip().splitlines()
        last = lines[-1][:MAX_LINE] if lines and code == 1 else ""
        raised = last.split(":")[0].replace(".", "").isidentifier()
        reason = f"raised {last}" if raised else reason
        status = "memory" if raised and last.startswith("MemoryError") else status
    return Outcome(status, code, stdout, stderr, ending.seconds, _printable(reason))


def tests_outcome(
    tests_jail: Jail, candidate_jail: Jail, codes: tuple[int, int], ending: Ending, limits: Limits
) -> Outcome:
    """Return the outcome of a candidate, by the verdict of the tests if there is one.

    Args:
        tests_jail: the jail of the tests.
        candidate_jail: the jail of the candidate.
        codes: exit codes of their first processes.
        ending: result of `supervisor.supervise`.
        limits: limits of both jails.

    Returns:
        Outcome, without outputs.
    """
    lines = bytes(tests_jail.captured["verdict"]).split(b"\n")
    status, reason = json.loads(lines[0]) if len(lines) > 1 else ("none", "")
    code = None
    if status == "lost":
        code = _exit_code(candidate_jail, codes[1])
        status, reason = _describe_code(candidate_jail, code, limits)
        if status in ("ok", "error"):
            status, reason = "error", f"{reason} before the verdict"
        elif status == "killed":  # or stopped at the end, if it ran on without its pipes
            reason = "was killed, or closed its pipes, before the verdict"
    elif status == "none" and ending.cause == "timeout":
        status, reason = _describe_stop("timeout", limits)
    elif status == "none":
        ended, cause = _describe_code(tests_jail, _exit_code(tests_jail, codes[0]), limits)
        status = "broken" if ended == "ok" else ended
        reason = f"the tests ended without a verdict: {cause}"
    return Outcome(status, code, "", "", ending.seconds, _printable(reason))


def _exit_code(jail: Jail, code: int) -> int:
    """Exit code of the program that ran inside, if it is known, else that of the first process."""
    return supervisor.read_control(jail).get("end", code)


def _describe_stop(cause: str, limits: Limits) -> tuple[str, str]:
    """Status and reason of a program that was stopped."""
    if cause == "output":
        return cause, f"printed more than {limits.output} bytes"
    return cause, f"not done after {limits.timeout:g} s"


def _describe_code(jail: Jail, code: int, limits: Limits) -> tuple[str, str]:
    """Status and reason of a program that ended by itself or by a signal."""
    if code >= 0:
        return "error" if code else "ok", f"ended with exit code {code}"
    if code == -signal.SIGKILL and supervisor.read_control(jail).get("cpu", 0.0) >= limits.timeout:
        return _describe_stop("timeout", limits)
    if code == -signal.SIGKILL:
        return "killed", "killed from outside, perhaps by the kernel when out of memory"
    names = {number.value: number.name for number in signal.Signals}
    return "crash", f"crashed: {names.get(-code, f'signal {-code}')}"


def _printable(text: str) -> str:
    """Replace control characters: parts of the text come from untrusted programs."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
