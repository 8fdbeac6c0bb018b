"""`intro2llm launch`: torchrun's launcher, one output, the exit code of the processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stages.cli.main import main
from tests.stages.small import flags, rows


def test_launch_runs_a_stage_in_two_processes_and_returns_their_exit_code(tmp_path: Path) -> None:
    """A whole run, then one that the processes refuse, each started as a user does."""
    command = [sys.executable, "-m", "stages.cli.main", "launch", "2", "pretrain"]
    arguments = flags(tmp_path, max_steps=2)
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"final model: {tmp_path / 'run' / 'final_model'} (step 2)"
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]
    refused = subprocess.run(
        [*command, *arguments, "--seed", "3"], capture_output=True, text=True, timeout=200
    )
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "--seed was 0, is 3" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PROCESSES, SUBCOMMAND are required"),
        (["two", "pretrain"], "PROCESSES: expected a whole number, got 'two'"),
        (["0", "pretrain"], "--processes: expected at least 1, got 0"),
        (["2", "chat"], "'chat' does not run in several processes; choose one of pretrain, sft"),
        (["2", "pretrain", "--sed", "3"], "--sed: unknown flag; did you mean --seed?"),
    ],
)
def test_mistakes_are_refused_before_a_process_is_started(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("intro2llm launch: ")
    assert message in line
