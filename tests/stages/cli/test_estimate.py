"""`intro2llm estimate` prints the parameters, memory and FLOPs of a training step as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.cli.main import main
from tests.stages.small import write_config


def test_the_table_has_a_line_for_each_part(capsys: pytest.CaptureFixture) -> None:
    assert main(["estimate", "--config", "tiny_config", "--batch_size", "2", "--max_length", "32"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "parameters",
        "trained parameters",
        "FLOPs per token",
        "weights",
        "optimizer state",
        "total",
    ):
        assert f"\n{part}" in f"\n{shown}"


def test_qlora_can_be_estimated(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = write_config(tmp_path / "small.json", hidden_size=64, intermediate_size=128)
    flags = ["--config", str(config), "--batch_size", "1", "--max_length", "16", "--dtype", "bfloat16"]
    assert main(["estimate", "--qlora", *flags]) == 0
    assert "%" in capsys.readouterr().out


def test_lengths_and_batches_that_cannot_work_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["estimate", "--max_length", "999999"]) == 2
    assert "--max_length 999999 exceeds the model's max_position_embeddings" in capsys.readouterr().err
    assert main(["estimate", "--batch_size", "3", "--gradient_accumulation", "2"]) == 2
    assert "--gradient_accumulation 2 does not divide --batch_size 3" in capsys.readouterr().err
    assert main(["estimate", "--config", "tiny_config", "--model_path", "m"]) == 2
    assert (
        "--config tiny_config and --model_path m are two configurations; give one" in capsys.readouterr().err
    )
