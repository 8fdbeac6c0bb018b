"""`stages.cli.ladder`: the demo's stages after pretraining, each evaluated before and after training."""

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


def four_question_stage(tmp_path: Path, evaluated: list[str]) -> ladder.DemoStage:
    """A stage whose task has four questions; w of them are answered right, and `evaluated` notes each w."""

    def task(built: Any, params: Any) -> Task:
        correct = int(params["w"])

        def answer(numbers: list[int]) -> list[dict]:
            evaluated.append(f"{correct}")
            return [{"prompt": f"p{i}", "output": "", "score": float(i < correct)} for i in numbers]

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


def run_stage(tmp_path: Path, evaluated: list[str], signal: int | None = None) -> dict | int:
    """Runs the stage with a training that raises w from 1 to 3; a signal interrupts it."""
    demo_stage = four_question_stage(tmp_path, evaluated)

    def run(options: Any, before_first_step: Any) -> Any:
        built = SimpleNamespace(params={"w": torch.tensor(1.0)}, key=torch.zeros(2))
        before_first_step(built)
        writer = log.json_lines(Path(options.output_dir) / "metrics.jsonl")
        for step, kl in ((1, 0.1), (2, 0.4), (3, 0.2)):
            writer.write(step, {"kl/log_ratio": kl})
        writer.close()
        state = SimpleNamespace(params={"w": torch.tensor(3.0)})
        return SimpleNamespace(signal=signal, state=state, experiment=built)

    (tmp_path / "grpo").mkdir(exist_ok=True)
    return ladder.run_stage(demo_stage, run, tmp_path / "ladder.json")


def test_a_stage_is_evaluated_before_and_after_and_not_when_run_again(tmp_path: Path) -> None:
    evaluated: list[str] = []
    found = run_stage(tmp_path, evaluated)
    assert isinstance(found, dict)
    assert {name: found[name] for name in ("before", "after", "kl")} == {
        "before": 0.25,
        "after": 0.75,
        "kl": 0.4,
    }
    assert found["low"] < 0.5 < found["high"] <= 0.75
    assert found["count"] == 4
    assert run_stage(tmp_path, evaluated) == found == files.read_json(tmp_path / "ladder.json")["grpo"]
    assert evaluated == ["1", "3"]
    assert len(record.read_samples(tmp_path / "grpo" / "evaluation" / "after")["exam"]) == 4


def test_an_interrupted_stage_keeps_its_evaluation_before_training(tmp_path: Path) -> None:
    evaluated: list[str] = []
    assert run_stage(tmp_path, evaluated, signal=2) == 2
    assert not (tmp_path / "ladder.json").exists()
    assert isinstance(run_stage(tmp_path, evaluated), dict)
    assert evaluated == ["1", "3"]


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_model_scores_0_in_the_task_of_each_stage(tmp_path: Path, name: str) -> None:
    """Its answers are all wrong, and its DPO margins are 0, as the policy equals the reference."""
    demo_stage = {stage.name: stage for stage in ladder.demo_stages(tmp_path, seed=0, compile=False)}[name]
    built = build(tmp_path, "sft")
    ladder.evaluate_policy(demo_stage, built, built.params, tmp_path / "exam")
    ((task, samples),) = record.read_samples(tmp_path / "exam").items()
    assert (task, len(samples)) == ("preference" if name == "dpo" else "exact_match", 128)
    assert all(sample["score"] == 0.0 for sample in samples)
    assert all(sample.get("margin", 0.0) == 0.0 for sample in samples)


def test_the_table_shows_the_kl_bound_for_grpo_and_not_for_ppo(tmp_path: Path) -> None:
    found = {"before": 0.1, "after": 0.9, "low": 0.7, "high": 0.9, "kl": 0.2, "count": 128}
    lines = ladder.table(
        [(demo_stage, found) for demo_stage in ladder.demo_stages(tmp_path, seed=0, compile=False)]
    ).splitlines()
    assert len(lines) == 5
    assert "bound 0.5" in lines[3]
    assert "bound" not in lines[4]
    assert lines[4].split()[-6:] == ["128", "0.100", "0.900", "+0.70", "..", "+0.90"]
    without = ladder.table(
        [
            (demo_stage, {**found, "count": ""})
            for demo_stage in ladder.demo_stages(tmp_path, seed=0, compile=False)
        ]
    )
    assert [len(line) for line in without.splitlines()] == [len(line) for line in lines]
