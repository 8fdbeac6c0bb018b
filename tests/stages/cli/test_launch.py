"""`intro2llm launch`: torchrun's launcher, one output, the exit code of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from stages.cli.main import main
from stages.cli.subcommands import SUBCOMMANDS
from tests.stages.small import flags, rows


def test_launch_runs_a_stage_in_two_processes_that_print_once(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "stages.cli.main", "launch", "2", "pretrain"]
    done = subprocess.run(
        [*command, *flags(tmp_path, max_steps=2)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"final model: {tmp_path / 'run' / 'final_model'} (step 2)"
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert not [name for name in left if name.startswith(("torchelastic", "intro2llm"))]


def test_the_processes_save_and_end_if_the_launcher_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stages.cli.main", "launch", "2", "pretrain"]
    arguments = flags(tmp_path, max_steps=100_000, eval_every=0)
    log = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as launcher:
        end = time.monotonic() + 120
        while not (log.exists() and log.read_bytes()):
            assert launcher.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        launcher.kill()
        printed, _ = launcher.communicate(timeout=20)  # until both processes have closed it
    assert "; the same command resumes from there" in printed.splitlines()[-1]


def test_the_help_names_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["launch", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name, subcommand in SUBCOMMANDS.items() if subcommand.joins)


@pytest.mark.parametrize(
    ("codes", "expected"), [((2, 2), 2), ((143, 143), 143), ((-9, 1), 1), ((-9,), 1), ((), 143)]
)
def test_the_exit_code_is_that_of_the_processes(
    codes: tuple[int, ...], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun's launcher reports the processes that failed; with none of them, a signal to itself."""

    def launch(config: Any, entrypoint: str, args: list[str]) -> None:
        assert (config.nproc_per_node, config.max_restarts, args[:3]) == (
            2,
            0,
            ["-m", "stages.cli.main", "pretrain"],
        )
        if not codes:
            raise SignalException("received", signal.SIGTERM)
        raise ChildFailedError("python", {i: ProcessFailure(i, 1, code, "") for i, code in enumerate(codes)})

    monkeypatch.setattr("torch.distributed.launcher.api.launch_agent", launch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["launch", "2", "pretrain", *flags(tmp_path)]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PROCESSES, SUBCOMMAND are required"),
        (["two", "pretrain"], "PROCESSES: expected a whole number, got 'two'"),
        (["0", "pretrain"], "PROCESSES: expected at least 1, got 0"),
        (["0"], "SUBCOMMAND is required"),
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
