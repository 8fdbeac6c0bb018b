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
bar = progress("step", 3)
for step in (1, 2, 3):
    bar.show(step, {"loss": 4 - step, "tok_per_sec": 1000.0})
    bar.say(f"step {step}: the gradient of layers[0] is [red]")
bar.close()
print("the end")
"""


def test_a_pipe_gets_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    bar = progress("step", 100)
    for step in range(1, 101):
        now[0] += 1.0
        bar.show(step, {"loss": 2.5, "tok_per_sec": 1000.0})
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 1/100 · loss 2.500 · 1,000 tok/s"
    assert lines[1] == "step 11/100 · loss 2.500 · 1,000 tok/s · left 1:29"
    assert lines[-1] == "step 100/100 · loss 2.500 · 1,000 tok/s · left 0:00"
    assert len(lines) == 11


def test_the_time_left_ignores_a_slow_first_step() -> None:
    times = iter([60.0, 61.0])
    left = module.make_eta(10, lambda: next(times))
    assert (left(1), left(2)) == ("", "left 0:08")


def test_quiet_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress("step", 2, quiet=True)
    bar.show(1, {"loss": 1.0})
    bar.say("text")
    bar.close()
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_a_bar_and_the_messages() -> None:
    """PROGRAM runs in a pseudo-terminal."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "70"}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    output = b""
    try:
        while part := os.read(controller, 4096):
            output += part
    except OSError:  # the child has closed the terminal
        pass
    assert child.wait() == 0
    os.close(controller)
    text = output.decode()
    assert "step 3/3" in text
    assert "loss 1.000" in text
    assert "step 2: the gradient of layers[0] is [red]" in text  # brackets are not read as markup
    assert "\x1b[?25h" in text  # shows the cursor again
    assert text.rstrip().endswith("the end")


def test_metrics_and_durations_are_formatted() -> None:
    assert describe({}) == ""
    assert describe({"loss": float("nan")}) == "loss nan"
    assert [format_duration(x) for x in (0, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]
