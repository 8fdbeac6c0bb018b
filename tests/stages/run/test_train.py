"""`train(options)`, a full run. (Resuming, signals and exit codes are tested at the command line.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pure import tree
from stages.models import language_model
from stages.run.experiment import Experiment, fingerprint_of
from stages.run.options.tuning import SFTOptions
from stages.run.train import Outcome, train
from tests.stages.small_stages import write_model, write_rows


def run(folder: Path, **changes: Any) -> Outcome:
    if not (folder / "model").exists():
        write_model(folder)
        write_rows(folder)
    options: dict[str, Any] = {
        "model_path": str(folder / "model"),
        "data_path": str(folder / "sft.jsonl"),
        "output_dir": str(folder / "run"),
        "batch_size": 4,
        "max_length": 64,
        "max_steps": 2,
        "dtype": "float32",
        "device": "cpu",
        "compile": False,
        "held_out": 4,
    } | changes
    return train(SFTOptions(**options), say=lambda line: None)


def test_the_final_model_has_the_params_of_the_last_state(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert outcome.status == "complete"
    assert outcome.signal is None
    assert outcome.final_model == tmp_path / "run" / "final_model"
    saved = language_model.load(outcome.final_model)
    for x, y in zip(tree.leaves(saved.params), tree.leaves(outcome.state.params), strict=True):
        assert torch.equal(x, y)


def test_before_first_step_gets_the_experiment(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_rows(tmp_path)
    seen: list[Experiment] = []
    folder = tmp_path / "run"
    options = SFTOptions(
        model_path=str(tmp_path / "model"),
        data_path=str(tmp_path / "sft.jsonl"),
        output_dir=str(folder),
        max_length=64,
        max_steps=1,
        compile=False,
        held_out=4,
    )

    def check(experiment: Experiment) -> None:
        assert (folder / "config.json").exists()
        assert not (folder / "metrics.jsonl").exists()
        seen.append(experiment)

    outcome = train(options, before_first_step=check, say=lambda line: None)
    assert fingerprint_of(seen[0]) == fingerprint_of(outcome.experiment)


def test_invalid_flags_leave_no_output_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--batch_size: expected at least 1"):
        run(tmp_path, batch_size=0)
    assert not (tmp_path / "run").exists()
