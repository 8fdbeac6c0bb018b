"""What became of a program in a jail, in words that tell one end from another."""

from __future__ import annotations

import json
import signal
from typing import NamedTuple

from stages.sandbox import supervisor
from stages.sandbox.supervisor import Ending, Jail, Limits

LINE = 300  # characters of a reason


class Outcome(NamedTuple):
    """How a program ended.

    Fields:
        status: "ok"; "error" (it raised, or ended with another exit code than 0); "timeout"; "memory";
            "output" (it said more than it may); "crash" (it ended by a signal); "killed" (somebody else ended
            it, such as the kernel for want of memory). Of `examine` also "wrong" (an answer), "syntax" (it
            does not compile), "refused" (an answer that is no plain value), "broken" (the tests themselves do
            not run).
        code: its exit code, -N for signal N; None if it was stopped.
        stdout, stderr: what it said, up to the bound.
        seconds: how long it ran, the start of the jail not counted.
        reason: the status in words, one line, printable.
    """

    status: str
    code: int | None
    stdout: str
    stderr: str
    seconds: float
    reason: str


def of_program(jail: Jail, code: int, ending: Ending, limits: Limits) -> Outcome:
    """Says what became of a program.

    Args:
        jail: that it ran in, and that has ended.
        code: of the jail's first process.
        ending: why attending ended.
        limits: of the jail.

    Returns:
        Outcome.
    """
    stdout, stderr = (bytes(jail.heard[name]).decode(errors="replace") for name in ("stdout", "stderr"))
    code = _code(jail, code)
    if ending.why in ("timeout", "output"):
        status, reason = _stopped(ending.why, limits)
        return Outcome(status, None, stdout, stderr, ending.seconds, reason)
    status, reason = _by_code(jail, code, limits)
    if status == "error":
        lines = stderr.strip().splitlines()
        last = lines[-1][:LINE] if lines and code == 1 else ""
        raised = last.split(":")[0].replace(".", "").isidentifier()
        reason = f"raised {last}" if raised else reason
        status = "memory" if raised and last.startswith("MemoryError") else status
    return Outcome(status, code, stdout, stderr, ending.seconds, _line(reason))


def of_tests(judge: Jail, judged: Jail, codes: tuple[int, int], ending: Ending, limits: Limits) -> Outcome:
    """Says what became of a candidate, by the verdict of the tests, if there is one.

    Args:
        judge: the jail of the tests.
        judged: the jail of the candidate.
        codes: of their first processes.
        ending: why attending ended.
        limits: of both jails.

    Returns:
        Outcome, without outputs.
    """
    lines = bytes(judge.heard["verdict"]).split(b"\n")
    status, reason = json.loads(lines[0]) if len(lines) > 1 else ("none", "")
    code = None
    if status == "lost":
        code = _code(judged, codes[1])
        status, reason = _by_code(judged, code, limits)
        if status in ("ok", "error"):
            status, reason = "error", f"{reason} before the verdict"
        elif status == "killed":  # or stopped with the rest, since it lived on without its pipes
            reason = "was killed, or closed its pipes, before the verdict"
    elif status == "none" and ending.why == "timeout":
        status, reason = _stopped("timeout", limits)
    elif status == "none":
        ended, words = _by_code(judge, _code(judge, codes[0]), limits)
        status, reason = "broken" if ended == "ok" else ended, f"the tests ended without a verdict: {words}"
    return Outcome(status, code, "", "", ending.seconds, _line(reason))


def _code(jail: Jail, code: int) -> int:
    """The exit code of what ran inside."""
    return supervisor.told(jail).get("end", code)


def _stopped(why: str, limits: Limits) -> tuple[str, str]:
    """Status and reason of what was stopped."""
    if why == "output":
        return why, f"said more than {limits.output} bytes"
    return why, f"endless: not done after {limits.timeout:g} s"


def _by_code(jail: Jail, code: int, limits: Limits) -> tuple[str, str]:
    """Status and reason of what ended by itself or by a signal."""
    if code >= 0:
        return ("error", f"ended with exit code {code}") if code else ("ok", "ended with exit code 0")
    if code == -signal.SIGKILL and supervisor.told(jail).get("cpu", 0.0) >= limits.timeout:
        return _stopped("timeout", limits)
    if code == -signal.SIGKILL:
        return "killed", "killed from outside, perhaps by the kernel for want of memory"
    names = {number.value: number.name for number in signal.Signals}
    return "crash", f"crashed: {names.get(-code, f'signal {-code}')}"


def _line(text: str) -> str:
    """A line that can be shown on a terminal: programs chose some of its words."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
