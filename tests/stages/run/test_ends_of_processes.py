"""Processes that end differently: help, bad places, full disks, two errors at once; all end soon, with a word."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stages.cli.main import main
from stages.run.channel import EndedError
from tests.stages.children import join_all, limit_files, start_joined
from tests.stages.run.test_processes import assert_refused, printed
from tests.stages.small import flags

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("rank", [0, 1])
def test_help_on_one_process_and_a_run_on_the_other_are_refused_at_once(rank: int, tmp_path: Path) -> None:
    """The one waited for the other's end, the other for its flags, for minutes."""
    arguments = [flags(tmp_path, output_dir=tmp_path / "run")] * 2
    arguments[rank] = ["--help"]
    names = ["pretrain", "pretrain"]
    names[rank] = "pretrain --help"
    message = f"process 1 runs {names[1]}, process 0 {names[0]}; start all with one command"
    begin = time.monotonic()
    assert_refused(tmp_path, arguments, message)
    assert time.monotonic() - begin < 40
    assert not (tmp_path / "run").exists()


def test_help_on_all_processes_is_printed_once(tmp_path: Path) -> None:
    assert join_all(start_joined(2, tmp_path / "out", ["--help"])) == [0, 0]
    first, second = printed(tmp_path / "out", "out")
    assert any("--max_steps" in line for line in first)
    assert second == []


PLACE = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            PLACE | {"RANK": "2"},
            "intro2llm: process 2: RANK: expected a whole number from 0 to 1, got '2'; start",
        ),
        (
            PLACE | {"MASTER_ADDR": ""},
            "intro2llm: process 1: WORLD_SIZE is 2, and MASTER_ADDR is not set; start",
        ),
        (PLACE | {"RANK": ""}, "intro2llm: WORLD_SIZE is 2, and RANK is not set; start the processes with"),
    ],
)
def test_a_process_without_a_place_says_so_whatever_its_rank(
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Processes other than the first ended without a word."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["pretrain"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize("shard", ["none", "state"])
def test_a_full_disk_is_told_once_with_files_of_dcp(shard: str, tmp_path: Path) -> None:
    """It was a traceback, and "process 0 ended without a message". (A folder *.tmp is removed by the next save.)"""
    arguments = flags(
        tmp_path, output_dir=tmp_path / "run", checkpoint_format="dcp", shard=shard, save_every=1
    )
    setups = dict.fromkeys((0, 1), partial(limit_files, 20_000))
    assert_refused(tmp_path, arguments, "File too large; make room there", code=1, setups=setups)
    assert not list((tmp_path / "run" / "checkpoints").glob("*[0-9]"))


def fail_interrupted() -> None:
    """Lets this process learn of the other's end in the middle of the explanation of its own error."""
    from stages.cli import main as command
    from stages.run import loop

    original, calls = command.explain, []

    def explain(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise EndedError("another process has ended")
        return original(*args)

    def fail(*args: Any) -> Any:
        raise OSError(28, "No space left on device", "own.txt")

    command.explain = explain
    loop._step = fail


def test_an_error_that_was_being_explained_as_another_process_ended_is_kept(tmp_path: Path) -> None:
    arguments = flags(tmp_path, output_dir=tmp_path / "run")
    processes = start_joined(2, tmp_path / "out", arguments, {0: fail_interrupted})
    assert join_all(processes) == [1, 1]
    assert printed(tmp_path / "out", "err") == [
        ["intro2llm pretrain: own.txt: No space left on device"],
        [],
    ]
