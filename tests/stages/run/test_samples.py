"""`samples`: greedy completions of --sample_prompt before the first step and at each validation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.cli.main import main
from stages.run.options.tuning import GRPOOptions, RewardOptions
from stages.run.samples import NEW_TOKENS, make_sample
from tests.stages import small_stages
from tests.stages.models.test_language_model import make_model
from tests.stages.small import flags


def read_steps(folder: Path) -> list[tuple[int, list[dict[str, Any]]]]:
    lines = (folder / "completions.jsonl").read_text().splitlines()
    return [(line["step"], line["answers"]) for line in map(json.loads, lines)]


def test_pretraining_logs_samples_and_a_resumed_run_replaces_those_after_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", *flags(tmp_path, max_steps=4, eval_every=2, save_every=2), "--sample_prompt", "the"]
    assert main([*words, "a b"]) == 0
    steps = read_steps(tmp_path / "run")
    assert [step for step, _ in steps] == [0, 2, 4]
    assert [[row["prompt"] for row in rows] for _, rows in steps] == [["the", "a b"]] * 3
    assert all(row["rewards"] == {} for _, rows in steps for row in rows)
    assert "step 2: 'the' -> " in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert main(words) == 0
    assert [(step, len(rows)) for step, rows in read_steps(tmp_path / "run")] == [(0, 2), (2, 2), (4, 1)]


def test_sft_answers_the_prompt_as_a_turn_of_a_chat(tmp_path: Path) -> None:
    words = {"max_steps": 2, "eval_every": 1, "sample_prompt": "Add 3"}
    assert small_stages.run(tmp_path, "sft", **words) == 0
    assert [step for step, _ in read_steps(tmp_path / "sft")] == [0, 1, 2]


def test_samples_change_no_step(tmp_path: Path) -> None:
    for name, prompt in (("with", "Add 3"), ("without", None)):
        words = {"max_steps": 2, "output_dir": tmp_path / name, "sample_prompt": prompt}
        assert small_stages.run(tmp_path, "sft", **words) == 0
    one, other = (
        [json.loads(line)["loss"] for line in (tmp_path / x / "metrics.jsonl").read_text().splitlines()]
        for x in ("with", "without")
    )
    assert one == other


def test_a_prompt_must_fit_and_say_something() -> None:
    base = make_model(max_position_embeddings=16)
    assert make_sample(base, None, (), dtype=torch.float32) is None
    for prompt, message in (("word " * 40, "leave no room"), ("", "--sample_prompt is empty")):
        with pytest.raises(ValueError, match=message):
            make_sample(base, None, (prompt,), dtype=torch.float32)
    sample = make_sample(base, None, ("a",), dtype=torch.float32)
    assert sample is not None
    (row,) = sample(base.params)
    assert len(base.tokenizer.encode(row["completion"])) <= min(NEW_TOKENS, 16)


def test_stages_with_their_own_completions_or_none_have_no_such_flag() -> None:
    for options in (GRPOOptions, RewardOptions):
        assert "sample_prompt" not in options.__dataclass_fields__
