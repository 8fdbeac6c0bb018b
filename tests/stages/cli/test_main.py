"""The command line answers at once, and every subcommand it lists is there."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages.cli.main import SUBCOMMANDS, main


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_subcommand(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert [name for name in SUBCOMMANDS if f"\n  {name} " not in shown] == []


def test_every_subcommand_is_a_module() -> None:
    assert [name for name in SUBCOMMANDS if find_spec(f"stages.cli.{name}") is None] == []


def test_an_unknown_subcommand_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrian", "--seed", "1"]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


def test_help_answers_in_under_0_7_seconds() -> None:
    """The installed command, as a person types it; the best of three, since other tests run beside it."""

    def once() -> float:
        start = time.perf_counter()
        answer = subprocess.run(
            [Path(sys.executable).with_name("intro2llm"), "--help"], check=True, capture_output=True
        )
        assert b"usage: intro2llm" in answer.stdout
        return time.perf_counter() - start

    assert min(once() for _ in range(3)) < 0.7
