"""`intro2llm launch`: torchrun's launcher, one output, the exit code of the processes."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from stages.cli.main import main
from stages.cli.subcommands import SUBCOMMANDS
from stages.run.world import LAUNCHER
from tests.stages.children import free_port, join_all, run_joined, start_body, start_process, wait_for
from tests.stages.small import flags, rows

pytestmark = pytest.mark.processes


def launch_quietly(variables: dict[str, str]) -> None:
    """Setup of a launcher: environment variables, with the folder of temporary files."""
    os.environ.update(variables)
    tempfile.tempdir = None


def test_launch_runs_a_stage_in_two_processes_that_print_once(tmp_path: Path) -> None:
    """Their parent is the launcher, and they know it (they end with it: the next test)."""
    for name in ("temporary", "path"):
        (tmp_path / name).mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(
        "import os\n"
        f"with open({str(tmp_path / 'parents')!r}, 'a') as file:\n"
        f"    file.write(str(os.environ.get({LAUNCHER!r}) == str(os.getppid())) + '\\n')\n"
    )
    path = os.pathsep.join((str(tmp_path / "path"), os.getcwd()))
    variables = {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": path}
    arguments = ["2", "pretrain", *flags(tmp_path, max_steps=2)]
    launcher = start_process(arguments, partial(launch_quietly, variables), "launch", tmp_path / "launcher")
    assert join_all([launcher], 200) == [0], (tmp_path / "launcher.err").read_text()
    assert (tmp_path / "launcher.err").read_text() == ""
    last = (tmp_path / "launcher.out").read_text().splitlines()[-1]
    assert last == f"final model: {tmp_path / 'run' / 'final_model'} (step 2)"
    assert (tmp_path / "parents").read_text().splitlines() == ["True", "True"]
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert not [name for name in left if name.startswith(("torchelastic", "intro2llm"))]


def fork_two(arguments: list[str], folder: Path) -> None:
    """Body of a launcher that forks its two processes; each writes its exit code to a file."""
    os.environ[LAUNCHER] = str(os.getpid())
    port = free_port()
    for rank in range(2):
        if os.fork() == 0:
            (folder / f"{rank}.pid").write_text(str(os.getpid()))
            code = run_joined("pretrain", arguments, rank, 2, port, folder)
            (folder / f"{rank}.code").write_text(str(code))
            os._exit(0)
    time.sleep(600)


def test_the_processes_save_and_end_if_the_launcher_is_killed(tmp_path: Path) -> None:
    arguments = flags(tmp_path, max_steps=100_000, eval_every=0)
    log, codes = tmp_path / "run" / "metrics.jsonl", [tmp_path / f"{rank}.code" for rank in range(2)]
    launcher = start_body(fork_two, arguments, tmp_path)
    try:
        wait_for(lambda: log.exists() and bool(log.read_bytes()), launcher)
        launcher.kill()
        end = time.monotonic() + 60
        while not all(path.exists() and path.read_text() for path in codes):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        launcher.kill()
        for path in tmp_path.glob("*.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)
    assert [path.read_text() for path in codes] == ["143", "143"]
    assert "; the same command resumes from there" in (tmp_path / "0.out").read_text().splitlines()[-1]


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
