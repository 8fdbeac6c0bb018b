"""`bash benchmarks/gpu.sh`: its list of commands, their limits, and what happens when one fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield import_module("gpu")


@pytest.mark.parametrize("flags", [(), ("--gpus", "8"), ("--cpu",)], ids=str)
def test_the_dry_run_lists_commands_and_limits_of_at_most_six_minutes(flags: tuple[str, ...]) -> None:
    words = ["bash", str(BENCHMARKS / "gpu.sh"), "--dry_run", *flags]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    *limits, total = [int(line.split(" s ")[0]) for line in lines]
    assert all("python benchmarks/" in line for line in lines[:-1])
    assert sum(limits) == total <= 360


@pytest.mark.parametrize(("gpus", "cpu"), [(1, False), (8, False), (0, True)])
def test_every_command_names_a_file_and_flags_that_it_has(gpu: ModuleType, gpus: int, cpu: bool) -> None:
    timing = (BENCHMARKS / "_timing.py").read_text()
    for command in gpu.commands(gpus, cpu):
        text = (BENCHMARKS / f"{command.name}.py").read_text() + timing
        flags = [word for word in command.flags if word.startswith("--")]
        assert flags
        assert [flag for flag in flags if f'"{flag}"' not in text] == []


def test_every_benchmark_with_figures_of_a_gpu_is_run(gpu: ModuleType) -> None:
    """Those that ask torch for a GPU, or take the device of `_model.py` or `_trl.py`."""
    asks = re.compile(r"cuda\.is_available\(\)|^from _model import .*\bDEVICE\b", re.MULTILINE)
    files = [path.stem for path in BENCHMARKS.glob("[!_]*.py") if asks.search(path.read_text())]
    assert files
    assert set(files) - {"gpu"} <= {command.name for command in gpu.commands(1, False)}


def test_a_command_that_fails_or_takes_too_long_is_named_and_the_next_one_runs(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    programs = {"wrong": "exit(3)", "slow": "import time; time.sleep(60)", "right": "print('a figure')"}
    monkeypatch.setattr(gpu, "line", lambda command: [sys.executable, "-c", programs[command.name]])
    chosen = [gpu.Command(name, 1 if name == "slow" else 30, ()) for name in programs]
    assert gpu.run(chosen, cpu=False) == ["wrong (exit status 3)", "slow (stopped after 1 s)"]
    assert "a figure\n```" in capfd.readouterr().out
