"""Sketches of gradients on disk: resumed, refused, and the scores that they estimate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random
from pure.transform.sketch import projected
from stages.influence import influence, query_directions
from stages.run.sketches import cached_sketches, score_queries

KEY = random.key(0)
PARAMS = {"w": random.normal(random.key(1), (16, 8))}
BATCHES = [{"x": random.normal(random.key(2 + i), (3, 8))} for i in range(3)]
DIM = 64


def loss(params: Any, batch: Any, key: Tensor | None, calls: list | None = None) -> Any:
    if calls is not None:
        calls.append(len(batch["x"]))
    return (batch["x"] @ params["w"].T).square().sum(), torch.tensor(float(len(batch["x"]))), {}


def test_sketches_are_those_of_each_batch_and_are_read_the_second_time(tmp_path: Path) -> None:
    lines: list[str] = []
    cache = partial(cached_sketches, tmp_path / "new" / "sketches", loss, PARAMS, BATCHES, key=KEY, dim=DIM)
    first = cache(say=lines.append)
    expected = torch.cat([projected(loss, KEY, DIM)(PARAMS, batch, None) for batch in BATCHES])
    torch.testing.assert_close(first, expected)
    assert lines[-1] == "sketches: 3 of 3 batches, 9 rows"
    lines.clear()
    assert torch.equal(cache(say=lines.append), first)
    assert lines == []


def test_a_run_that_was_killed_resumes_after_the_last_batch_that_it_finished(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("sketches: 2"):
            raise KeyboardInterrupt

    cache = partial(cached_sketches, loss=loss, params=PARAMS, batches=BATCHES, key=KEY, dim=DIM)
    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path / "killed", say=stop)
    with (tmp_path / "killed" / "sketches.bin").open("ab") as file:
        file.write(b"half a row")
    lines: list[str] = []
    resumed = cache(tmp_path / "killed", say=lines.append)
    assert lines == ["sketches: 3 of 3 batches, 9 rows"]
    assert torch.equal(resumed, cache(tmp_path / "whole"))


def test_sketches_of_something_else_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    cache = partial(cached_sketches, tmp_path, loss, batches=BATCHES, key=KEY)
    cache(params=PARAMS, dim=DIM)
    with pytest.raises(ValueError, match=r"sketches of something else \(dim: 64, now 32"):
        cache(params=PARAMS, dim=32)
    with pytest.raises(ValueError, match=r"sketches of something else \(params.w: float32"):
        cache(params={"w": PARAMS["w"] + 1}, dim=DIM)
    (tmp_path / "sketches.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"sketches.bin: shorter than manifest.json says"):
        cache(params=PARAMS, dim=DIM)


def test_scores_estimate_the_influence(tmp_path: Path) -> None:
    queries = {"x": random.normal(random.key(9), (4, 8))}
    doubled = lambda v: {"w": 2 * v["w"]}  # noqa: E731
    rows = {"x": torch.cat([batch["x"] for batch in BATCHES])}
    exact = influence(loss, PARAMS, product=doubled)(rows, queries)
    directions = query_directions(loss, PARAMS, product=doubled)(queries)
    estimates = []
    for seed in range(12):
        key = random.key(seed)
        sketches = cached_sketches(tmp_path / str(seed), loss, PARAMS, BATCHES, key=key, dim=DIM)
        estimates.append(score_queries(sketches, directions, key=key))
    found = torch.stack(estimates)
    error = found.mean(0) - exact
    assert (error.abs() < 5 * found.std(0) / 12**0.5).all()
    assert found.std(0).mean() < 0.5 * exact.abs().max()
