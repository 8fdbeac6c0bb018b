"""`intro2llm estimate` prints the parameters, memory and FLOPs of a training step as a table."""

from __future__ import annotations

import pytest

from stages.cli.main import main


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


def test_qlora_can_be_estimated(capsys: pytest.CaptureFixture) -> None:
    assert (
        main(["estimate", "--qlora", "--batch_size", "1", "--max_length", "16", "--dtype", "bfloat16"]) == 0
    )
    assert "%" in capsys.readouterr().out


def test_lengths_and_batches_that_cannot_work_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["estimate", "--max_length", "999999"]) == 2
    assert "--max_length 999999 exceeds the model's max_position_embeddings" in capsys.readouterr().err
    assert main(["estimate", "--batch_size", "3", "--gradient_accumulation", "2"]) == 2
    assert "--gradient_accumulation 2 does not divide --batch_size 3" in capsys.readouterr().err
