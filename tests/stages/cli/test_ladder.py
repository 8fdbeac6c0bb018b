"""The demo's stages after pretraining: each is evaluated once before and once after. (test_demo runs them.)"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_pipes import files
from stages.cli import ladder
from stages.evaluate import record
from stages.evaluate.task import Task, mean
from stages.run import log
from tests.stages.run.test_build import build

NAMES = ("sft", "dpo", "grpo", "ppo")


def test_dpo_grpo_and_ppo_start_from_the_fine_tuned_model(tmp_path: Path) -> None:
    found = ladder.demo_stages(tmp_path, seed=0, compile=False)
    assert [stage.name for stage in found] == list(NAMES)
    assert [stage.options.model_path for stage in found] == [str(tmp_path), *[str(tmp_path / "sft")] * 3]
    assert [stage.options.output_dir for stage in found] == [str(tmp_path / name) for name in NAMES]
    small = ladder.demo_stages(tmp_path, seed=0, compile=False, scale=0.001)
    assert all(stage.options.max_steps == 1 for stage in small)


def stage(tmp_path: Path, asked: list[str]) -> ladder.DemoStage:
    """A stage whose task has four questions; the start answers one, the end three of them."""

    def task(built: Any, params: Any) -> Task:
        right = int(params["w"])

        def answer(numbers: list[int]) -> list[dict]:
            asked.append(f"{right}")
            return [{"prompt": f"p{i}", "output": "", "score": float(i < right)} for i in numbers]

        return Task(
            "exam",
            [f"i{i}" for i in range(4)],
            answer,
            lambda s: {"acc": mean([x["score"] for x in s])},
            {},
            4,
            list("abcd"),
        )

    return ladder.demo_stages(tmp_path, seed=0, compile=False)[2]._replace(task=task)


def run_stage(tmp_path: Path, asked: list[str], status: str = "complete") -> dict | None:
    made = stage(tmp_path, asked)

    def run(options: Any, before_first_step: Any) -> Any:
        built = SimpleNamespace(params={"w": torch.tensor(1.0)}, key=torch.zeros(2))
        before_first_step(built)
        writer = log.json_lines(Path(options.output_dir) / "metrics.jsonl")
        for step, kl in ((1, 0.1), (2, 0.4), (3, 0.2)):
            writer.write(step, {"kl/log_ratio": kl})
        writer.close()
        state = SimpleNamespace(params={"w": torch.tensor(3.0)})
        return SimpleNamespace(status=status, state=state, experiment=built)

    (tmp_path / "grpo").mkdir(exist_ok=True)
    return ladder.run_stage(made, run, tmp_path / "ladder.json")


def test_it_is_evaluated_before_and_after_and_not_again(tmp_path: Path) -> None:
    asked: list[str] = []
    found = run_stage(tmp_path, asked)
    assert found is not None
    assert {name: found[name] for name in ("before", "after", "kl")} == {
        "before": 0.25,
        "after": 0.75,
        "kl": 0.4,
    }
    assert found["low"] < 0.5 < found["high"]
    assert run_stage(tmp_path, asked) == found == files.read_json(tmp_path / "ladder.json")["grpo"]
    assert asked == ["1", "3"]
    assert len(record.read_samples(tmp_path / "grpo" / "evaluation" / "after")["exam"]) == 4


def test_interrupted_it_remembers_how_it_began(tmp_path: Path) -> None:
    asked: list[str] = []
    assert run_stage(tmp_path, asked, "interrupted") is None
    assert not (tmp_path / "ladder.json").exists()
    assert run_stage(tmp_path, asked) is not None
    assert asked == ["1", "3"]


@pytest.mark.parametrize("name", NAMES)
def test_the_tasks_of_a_real_stage(tmp_path: Path, name: str) -> None:
    """An untrained model answers nothing right; and one that did not move has no margins."""
    made = {stage.name: stage for stage in ladder.demo_stages(tmp_path, seed=0, compile=False)}[name]
    built = build(tmp_path, "sft")
    ladder.evaluate_policy(made, built, built.params, tmp_path / "exam")
    ((task, samples),) = record.read_samples(tmp_path / "exam").items()
    assert (task, len(samples)) == ("preference" if name == "dpo" else "exact_match", 128)
    assert all(sample["score"] == 0.0 for sample in samples)
    assert all(sample.get("margin", 0.0) == 0.0 for sample in samples)


def test_the_table_names_the_bound(tmp_path: Path) -> None:
    found = {"before": 0.1, "after": 0.9, "low": 0.7, "high": 0.9, "kl": 0.2}
    lines = ladder.table(
        [(made, found) for made in ladder.demo_stages(tmp_path, seed=0, compile=False)]
    ).splitlines()
    assert len(lines) == 5
    assert "bound 0.5" in lines[3]
    assert "bound" not in lines[4]
