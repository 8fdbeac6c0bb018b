"""metrics.jsonl has one line a step, also after a kill; W&B and TensorBoard get the same numbers."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages.run import log


def read_lines(path: Path) -> list[dict[str, Any]]:
    return list(log.read_lines(path))


def write(path: Path, steps: range, last_saved: int = 0) -> None:
    writer = log.json_lines(path, last_saved)
    for step in steps:
        writer.write(step, {"loss": step / 3})
    writer.flush()
    writer.close()


def test_logged_numbers_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    writer = log.json_lines(tmp_path / "metrics.jsonl")
    writer.write(1, {"loss": 0.1 + 0.2, "grad_norm": math.inf, "x": math.nan})
    writer.close()
    (row,) = read_lines(tmp_path / "metrics.jsonl")
    assert row["loss"] == 0.1 + 0.2
    assert float(row["grad_norm"]) == math.inf
    assert math.isnan(float(row["x"]))


def test_lines_after_the_checkpoint_and_a_truncated_line_are_written_again(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    write(whole, range(1, 8))
    write(killed, range(1, 6))
    with killed.open("a") as file:
        file.write('{"step": 6, "lo')
    assert [row["step"] for row in read_lines(killed)] == [1, 2, 3, 4, 5]
    write(killed, range(4, 8), last_saved=3)
    assert killed.read_bytes() == whole.read_bytes()
    write(killed, range(0), last_saved=7)
    assert killed.read_bytes() == whole.read_bytes()


def test_a_last_line_without_a_newline_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    assert [row["step"] for row in read_lines(path)] == [1]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 3}\n')
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl:2: expected a JSON object with a step.*delete the line"
    ):
        read_lines(path)
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a Linux device")
def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    writer = log.json_lines(tmp_path / "metrics.jsonl")
    file = writer.write.args[0]  # type: ignore[attr-defined]
    os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
    with pytest.raises(
        OSError, match=r"cannot write .*metrics\.jsonl: No space left on device; make room there"
    ):
        writer.write(1, {"loss": 1.0})
    writer.close()


def test_wandb_resumes_the_run_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_options: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []
    run = SimpleNamespace(
        log=lambda values, step: logged.append((values, step)), finish=lambda: logged.append(({}, 0))
    )

    def init(**options: Any) -> Any:
        init_options.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for _ in range(2):
        writer = log.wandb(tmp_path, {"seed": 1}, project="p", mode="offline")
        writer.write(3, {"loss": 2.0})
        writer.flush()
        writer.close()
    assert logged == [({"loss": 2.0}, 3), ({}, 0)] * 2
    assert init_options[0] == init_options[1]
    assert init_options[0]["project"] == "p"
    assert init_options[0]["mode"] == "offline"
    assert init_options[0]["resume"] == "allow"
    assert init_options[0]["dir"] == str(tmp_path)
    assert init_options[0]["config"] == {"seed": 1}


def test_the_real_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    writer = log.wandb(tmp_path, {"seed": 1}, project="p", mode="offline")
    writer.write(1, {"loss": 2.0})
    writer.write(2, {"loss": 1.0, "val_loss": 1.5})
    writer.close()
    assert [path.suffix for path in (tmp_path / "wandb").rglob("run-*.wandb")] == [".wandb"]
    wandb.teardown()


def test_tensorboard_has_the_numbers_without_repeated_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        writer = log.tensorboard(tmp_path, first)
        for step in steps:
            writer.write(step, {"loss": step / 2 + first})
        writer.flush()
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 0.5),
        (2, 1.0),
        (3, 3.5),
        (4, 4.0),
    ]


@pytest.mark.parametrize("make", [lambda folder: log.wandb(folder, {}, project="p"), log.tensorboard])
def test_a_missing_package_is_named_with_the_install_command(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"is not installed; pip install 'intro2llm\[track\]' installs it"):
        make(tmp_path)


def test_lines_are_strict_json_without_nan(tmp_path: Path) -> None:
    writer = log.json_lines(tmp_path / "metrics.jsonl")
    writer.write(1, {"loss": math.nan})
    writer.close()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=refuse) == {"step": 1, "loss": "nan"}


@pytest.mark.parametrize(
    "end",
    [b'{"step": 3, "lo', b"\xff\xfe\x00", b'{"step": 3, "loss": \x9a}\n', b'{"step": 3, "loss": [1]}\n'],
)
def test_a_damaged_last_line_is_deleted_and_reported(end: bytes, tmp_path: Path) -> None:
    path, messages = tmp_path / "metrics.jsonl", []
    whole = b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": "nan"}\n'
    path.write_bytes(whole + end)
    log.json_lines(path, 5, messages.append).close()
    assert path.read_bytes() == whole
    assert messages == [f"{path}:3: the last line is cut off ({len(end)} bytes) and was deleted"]
    path.write_bytes(end.rstrip(b"\n") + b"\n" + whole)
    with pytest.raises(ValueError, match=r"metrics.jsonl:1: expected a JSON object with a step"):
        log.json_lines(path, 5)
