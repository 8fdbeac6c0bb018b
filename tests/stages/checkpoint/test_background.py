"""Background saves: `save` copies the state first, one save runs at a time, and errors are reported."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pure.types import Tree
from stages.checkpoint import background, checkpoint

ROOT = Path(__file__).parents[3]


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((1000,), float(value))}


def test_the_state_may_be_overwritten_as_soon_as_save_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    original = checkpoint.save

    def wait_then_save(*args: Any, **options: Any) -> Path:
        may_write.wait(10)
        return original(*args, **options)

    monkeypatch.setattr(checkpoint, "save", wait_then_save)
    saver = background.make_saver(tmp_path, keep_last=2)
    value = state(1.0)
    saver.save(value, step=1, score=0.5)
    value["w"].fill_(9.0)
    may_write.set()
    assert saver.wait() == checkpoint.latest(tmp_path) == checkpoint.best(tmp_path)
    assert checkpoint.load(tmp_path, state(0.0)).state["w"].unique().tolist() == [1.0]


def test_one_save_runs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, counts = [], []
    original = checkpoint.save

    def count_and_save(*args: Any, **options: Any) -> Path:
        running.append(1)
        counts.append(len(running))
        path = original(*args, **options)
        running.pop()
        return path

    monkeypatch.setattr(checkpoint, "save", count_and_save)
    saver = background.make_saver(tmp_path, keep_last=1)
    for step in range(10):
        saver.save(state(step), step=step)
    assert saver.wait() == checkpoint.latest(tmp_path)
    assert counts == [1] * 10
    assert checkpoint.load(tmp_path, state(0.0)).step == 9
    assert len(checkpoint.list_saved(tmp_path)) == 1


def test_an_error_is_raised_by_the_next_save_which_still_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint.save

    def fail_at_step_2(folder: Path, tree: Tree, *, step: int, **options: Any) -> Path:
        if step == 2:
            raise OSError(28, "No space left on device")
        return original(folder, tree, step=step, **options)

    monkeypatch.setattr(checkpoint, "save", fail_at_step_2)
    saver = background.make_saver(tmp_path)
    saver.save(state(1), step=1)
    saver.save(state(2), step=2)
    with pytest.raises(OSError, match="No space left"):
        saver.save(state(3), step=3)
    assert saver.wait() == checkpoint.latest(tmp_path)
    assert checkpoint.load(tmp_path, state(0)).step == 3
    saver.save(state(2), step=2)
    with pytest.raises(OSError, match="No space left"):
        saver.wait()
    assert [checkpoint.step_of(path) for path in checkpoint.list_saved(tmp_path)] == [1, 3]


def test_wait_without_a_save_returns_none(tmp_path: Path) -> None:
    assert background.make_saver(tmp_path).wait() is None


def test_a_process_finishes_its_save_before_it_exits(tmp_path: Path) -> None:
    program = (
        "import sys, torch\n"
        "from stages.checkpoint import background\n"
        "background.make_saver(sys.argv[1]).save({'w': torch.zeros(5_000_000)}, step=4)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    assert checkpoint.load(tmp_path, {"w": torch.zeros(5_000_000)}, warn=lambda text: None).step == 4


def test_a_snapshot_shares_no_memory_with_the_state() -> None:
    buffer = torch.arange(6.0)
    value = {"a": buffer[:3], "b": buffer.requires_grad_(), "c": 5, "d": None}
    copy = background.snapshot(value)
    with torch.no_grad():
        buffer.zero_()
    assert copy["a"].tolist() == [0, 1, 2]
    assert copy["b"].tolist() == [0, 1, 2, 3, 4, 5]
    assert not copy["b"].requires_grad
    assert (copy["c"], copy["d"]) == (5, None)
