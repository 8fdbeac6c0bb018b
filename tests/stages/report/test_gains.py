"""Gains are the differences of two evaluations, or the results of the demo's stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.report.gains import read_demo_gains, read_gains


def write_samples(folder: Path, scores: list[float]) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {"task": "t", "id": str(i), "prompt": f"p{i}", "output": f"o{score}", "score": score}
        for i, score in enumerate(scores)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_interval_is_that_of_the_comparison(tmp_path: Path) -> None:
    before = write_samples(tmp_path / "before", [0, 0, 0, 1] * 10)
    after = write_samples(tmp_path / "after", [0, 1, 1, 1] * 10)
    (gain,), pairs = read_gains(before, after)
    assert (gain.name, gain.before, gain.after, gain.count) == ("t", 0.25, 0.75, 40)
    assert gain.low < 0.5 < gain.high
    assert pairs[0].score_before != pairs[0].score_after
    assert (pairs[0].question, pairs[0].before, pairs[0].after) == ("p1", "o0", "o1")


def test_the_demo_s_stages_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    assert read_demo_gains(path) == ()
    path.write_text('{"sft": {"before": 0, "after": 0.5, "low": 0.4, "high": 0.6}}')
    assert read_demo_gains(path) == (("sft", 0.0, 0.5, 0.4, 0.6, 0),)
    path.write_text('{"sft": {"before": 0, "after": 0.5, "low": 0.4, "high": 0.6, "count": 128}}')
    assert read_demo_gains(path) == (("sft", 0.0, 0.5, 0.4, 0.6, 128),)
    path.write_text('{"sft": {"before": 0}}')
    with pytest.raises(KeyError):
        read_demo_gains(path)
