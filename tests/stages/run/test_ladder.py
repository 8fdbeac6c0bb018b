"""The demo's ladder: rungs that stand on each other, measured before and after, once. (It is climbed in test_demo.)"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pure import random
from stages.run import json_file, ladder, log
from tests.stages.run.test_tuning import build

NAMES = ("sft", "dpo", "grpo", "ppo")


def test_dpo_grpo_and_ppo_start_from_the_fine_tuned_model(tmp_path: Path) -> None:
    found = ladder.rungs(tmp_path, seed=0, compile=False)
    assert [rung.name for rung in found] == list(NAMES)
    assert [rung.options.model_path for rung in found] == [str(tmp_path), *[str(tmp_path / "sft")] * 3]
    assert [rung.options.output_dir for rung in found] == [str(tmp_path / name) for name in NAMES]
    small = ladder.rungs(tmp_path, seed=0, compile=False, scale=0.001)
    assert all(rung.options.max_steps == 1 for rung in small)


def rung(tmp_path: Path, calls: list[str]) -> ladder.Rung:
    def value(built: Any, params: Any) -> float:
        calls.append(str(params))
        return {"start": 0.25, "end": 0.75}[params]

    return ladder.rungs(tmp_path, seed=0, compile=False)[2]._replace(value=value)


def climb(tmp_path: Path, calls: list[str], status: str = "complete") -> dict | None:
    made = rung(tmp_path, calls)

    def run(options: Any, before: Any) -> Any:
        built = SimpleNamespace(params="start")
        before(built)
        writer = log.json_lines(Path(options.output_dir) / "metrics.jsonl")
        for step, kl in ((1, 0.1), (2, 0.4), (3, 0.2)):
            writer.write(step, {"kl/log_ratio": kl})
        writer.close()
        return SimpleNamespace(status=status, state=SimpleNamespace(params="end")), built

    (tmp_path / "grpo").mkdir(exist_ok=True)
    return ladder.climb(made, run, tmp_path / "ladder.json")


def test_it_is_measured_before_and_after_and_not_again(tmp_path: Path) -> None:
    calls: list[str] = []
    found = climb(tmp_path, calls)
    assert found == {"before": 0.25, "after": 0.75, "kl": 0.4}
    assert climb(tmp_path, calls) == found
    assert calls == ["start", "end"]


def test_interrupted_it_remembers_how_it_began(tmp_path: Path) -> None:
    calls: list[str] = []
    assert climb(tmp_path, calls, "interrupted") is None
    assert json_file.read(tmp_path / "ladder.json") == {"grpo/start": 0.25}
    assert climb(tmp_path, calls) == {"before": 0.25, "after": 0.75, "kl": 0.4}
    assert calls == ["start", "end"]


def test_an_exam_counts_right_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "QUESTIONS", 14)
    built = build(tmp_path, "sft")
    assert ladder.exact_match(built, built.params) == 0.0
    monkeypatch.setattr(ladder, "score_of", lambda *_, **__: lambda rollouts: rollouts.mask.any(1)[:, None].float())
    assert ladder.exact_match(built, built.params) == 1.0
    assert random.key(0).shape == (2,)


def test_the_table_names_the_bound(tmp_path: Path) -> None:
    results = [
        (made, {"before": 0.1, "after": 0.9, "kl": 0.2}) for made in ladder.rungs(tmp_path, seed=0, compile=False)
    ]
    lines = ladder.table(results).splitlines()
    assert len(lines) == 5
    assert "bound 0.5" in lines[3]
    assert "bound" not in lines[4]
