"""A run's folder is read whatever state it is in, or refused in one line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.report.record import describe_end, read_run
from stages.run import log
from stages.run.sessions import record_session


def write_run(folder: Path, steps: int = 5, **flags: Any) -> Path:
    """Write a run's config.json and a log, in which the loss of step 2 is not finite."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"stage": "sft", "options": {"seed": 3, **flags}, "model": {"hidden_size": 8}, "torch": "2"}
    (folder / "config.json").write_text(json.dumps(config))
    writer = log.json_lines(folder / "metrics.jsonl")
    for step in range(1, steps + 1):
        loss = float("nan") if step == 2 else 3.0 / step
        writer.write(step, {"loss": loss, "nonfinite_leaf": 0.0 if step == 2 else -1.0, "learning_rate": 0.1})
    writer.close()
    return folder


def write_completions(folder: Path, text: str, steps: int = 2) -> None:
    answer = {"index": 0, "prompt": "p", "completion": text, "rewards": {"a": 1.0, "b": None}}
    lines = [json.dumps({"step": step, "answers": [answer]}) + "\n" for step in range(1, steps + 1)]
    (folder / "completions.jsonl").write_text("".join(lines))


def test_everything_of_a_run_is_read(tmp_path: Path) -> None:
    write_completions(write_run(tmp_path / "r"), "hello")
    run = read_run(tmp_path / "r")
    assert (run.stage, run.flags["seed"], run.model["hidden_size"]) == ("sft", 3, 8)
    assert (run.steps, run.skipped, run.versions) == (5, 1, {"torch": "2"})
    assert list(run.curves) == ["loss", "learning_rate"]
    assert np.isnan(run.curves["loss"].values).tolist() == [False, True, False, False, False]
    assert [step for step, _ in run.completions.rows] == [1, 2]
    assert np.isnan(run.completions.rows[0][1].rewards["b"])
    assert run.notes == ()


def test_an_empty_run_and_a_log_alone_are_read(tmp_path: Path) -> None:
    empty = read_run(write_run(tmp_path / "empty", steps=0))
    assert (empty.steps, dict(empty.curves), empty.end) == (0, {}, "no step is logged yet")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    alone = read_run(tmp_path / "alone")
    assert (alone.stage, alone.steps, alone.flags) == ("", 1, {})


def test_a_run_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r")
    write_completions(folder, "x")
    for name in ("metrics.jsonl", "completions.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"step": 6, "lo')
    run = read_run(folder)
    assert (run.steps, run.completions.steps, run.notes) == (5, 2, ())


def test_the_end_is_described(tmp_path: Path) -> None:
    assert describe_end(tmp_path, 0) == "no step is logged yet"
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    text = "not complete: it runs, or was stopped, after step 5; the newest checkpoint is of step 4"
    assert describe_end(tmp_path, 5) == text
    (tmp_path / "final_model").mkdir()
    assert describe_end(tmp_path, 5) == "complete after 5 steps"
    for status, step, reason in (("interrupted", 3, "SIGTERM"), ("complete", 5, "")):
        with record_session(tmp_path, print) as note_end:
            note_end(status, step, reason)
        end = describe_end(tmp_path, step)
        expected = {3: "interrupted by a signal after 3 steps, 0 s: SIGTERM"}
        assert end == expected.get(step, "complete after 5 steps, 0 s in 2 sessions")


def test_damage_is_refused_or_noted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder; give the --output_dir of a run"):
        read_run(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"expected the folder of a run, with config\.json or"):
        read_run(tmp_path / "other")
    folder = write_run(tmp_path / "r")
    (folder / "completions.jsonl").write_text('{"step": 1}\n[]\n')
    (folder / "ladder.json").write_text('{"sft": 1}')
    notes = read_run(folder).notes
    assert notes[0] == "completions.jsonl: 2 damaged lines were left out, the first is 1"
    assert notes[1].startswith("the evaluation before and after could not be read")
    (folder / "metrics.jsonl").write_text('nonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:1: expected a JSON object"):
        read_run(folder)


def test_a_long_log_is_read_in_seconds(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", steps=0)
    line = '{"step": %d, "loss": 2.5, "grad_norm": 1.5, "learning_rate": 0.001, "tokens": 4096.0}\n'
    (folder / "metrics.jsonl").write_text("".join(line % step for step in range(1, 50_001)))
    start = time.process_time()
    assert read_run(folder).steps == 50_000
    assert time.process_time() - start < 5
