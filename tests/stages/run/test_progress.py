"""Output for the user: a bar on a terminal, lines in a pipe, nothing when quiet."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from stages.run import progress as module
from stages.run.progress import describe, format_duration, progress

PROGRAM = """
from stages.run.progress import progress
shown = progress("step", 3)
for step in (1, 2, 3):
    shown.show(step, {"loss": 4 - step, "tok_per_sec": 1000.0})
    shown.say(f"step {step}: the gradient of layers[0] is [red]")
shown.close()
print("the end")
"""


def test_lines_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shown = progress("step", 100)
    for step in range(1, 101):
        now[0] += 1.0
        shown.show(step, {"loss": 2.5, "tok_per_sec": 1000.0})
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 1/100 · loss 2.500 · 1,000 tok/s"
    assert lines[1] == "step 11/100 · loss 2.500 · 1,000 tok/s · left 1:29"
    assert lines[-1] == "step 100/100 · loss 2.500 · 1,000 tok/s · left 0:00"
    assert len(lines) == 11


def test_a_slow_first_step_does_not_spoil_the_time_left() -> None:
    times = iter([60.0, 61.0])
    left = module.make_eta(10, lambda: next(times))
    assert (left(1), left(2)) == ("", "left 0:08")


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress("step", 2, quiet=True)
    shown.show(1, {"loss": 1.0})
    shown.say("text")
    shown.close()
    assert capsys.readouterr().out == ""


def test_a_bar_on_a_terminal() -> None:
    """Run in a pseudo-terminal, and return the output that a user would see."""
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "70"}
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=side, stderr=side, env=environment)
    os.close(side)
    shown = b""
    try:
        while part := os.read(main, 4096):
            shown += part
    except OSError:  # the other side has closed
        pass
    assert child.wait() == 0
    os.close(main)
    text = shown.decode()
    assert "step 3/3" in text
    assert "loss 1.000" in text
    assert "step 2: the gradient of layers[0] is [red]" in text  # no markup is read into it
    assert "\x1b[?25h" in text  # the cursor is back
    assert text.rstrip().endswith("the end")


def test_few_words() -> None:
    assert describe({}) == ""
    assert describe({"loss": float("nan")}) == "loss nan"
    assert [format_duration(x) for x in (0, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]
