"""`train(options)`, a full run. (Resuming, signals and exit codes are tested at the command line.)"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pure import tree
from pure.parallel import rows
from pure.parallel.group import group_of
from pure.serial.serial import to_bytes
from stages.checkpoint import checkpoint
from stages.cli.main import main
from stages.models import checksums, language_model
from stages.run import final_model
from stages.run.early_stopping import BestValidation
from stages.run.experiment import Experiment, fingerprint_of
from stages.run.loop import Result
from stages.run.options.tuning import SFTOptions
from stages.run.train import Outcome, train
from tests.crew import crew
from tests.stages.small_stages import write_model, write_rows


def run(folder: Path, say: Callable[[str], object] = lambda line: None, **changes: Any) -> Outcome:
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
    return train(SFTOptions(**options), say=say)


def test_the_final_model_has_the_params_of_the_last_state(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert outcome.status == "complete"
    assert outcome.signal is None
    assert outcome.final_model == tmp_path / "run" / "final_model"
    assert (outcome.final_model / checksums.NAME).is_file()
    saved = language_model.load(outcome.final_model)
    for x, y in zip(tree.leaves(saved.params), tree.leaves(outcome.state.params), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("best", "ending"),
    [(4, "(step 6; validation was best at step 4)"), (6, "(step 6)"), (-1, "(step 6)")],
)
def test_a_run_says_where_its_validation_was_best_if_not_at_its_end(
    best: int, ending: str, tmp_path: Path
) -> None:
    state: Any = SimpleNamespace(step=6, extra={}, params={"w": torch.zeros(1)})
    result = Result(state, "complete", BestValidation(0.5, best), 6, None)
    said: list[str] = []

    def save(folder: Path, params: Any) -> Path:
        folder.mkdir()
        return folder

    final_model.write(tmp_path, result, save, said.append)
    assert said == [f"final model: {tmp_path / 'final_model'} {ending}"]


@pytest.mark.parametrize(
    ("changes", "few"),
    [
        ({"max_steps": None}, "3 steps"),
        ({"max_steps": None, "batch_size": 64}, "1 step"),
        ({"max_steps": None, "num_epochs": 4}, ""),
        ({}, ""),
    ],
)
def test_a_short_run_by_its_data_is_told_what_makes_it_longer(
    changes: dict[str, Any], few: str, tmp_path: Path
) -> None:
    said: list[str] = []
    run(tmp_path, say=said.append, **changes)
    end = "as the data has no more; --max_steps, --num_epochs or a smaller --batch_size gives more"
    assert [line for line in said if "run of only" in line] == (
        [f"a run of only {few}, {end}"] if few else []
    )
    said.clear()
    run(tmp_path, say=said.append, **changes)
    assert not any("run of only" in line for line in said)  # it is complete, and cannot be made longer


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


def save_in_rows(run_folder: Path) -> None:
    """Saves the run's newest checkpoint again, as two processes would have."""
    group = group_of("test", dist.group.WORLD)
    loaded = checkpoint.load(run_folder, None, group=group)
    in_rows = {
        name: rows.cut(part, group) if name in ("params", "opt_state") else part
        for name, part in loaded.state.items()
    }
    record = loaded.manifest
    checkpoint.save(
        run_folder,
        in_rows,
        step=loaded.step,
        metadata=record.metadata,
        fingerprint=record.fingerprint,
        group=group,
    )


def resume(folder: Path, **changes: Any) -> Outcome:
    """Takes the last steps of a run again, whose first two are saved."""
    shutil.rmtree(folder / "run" / "final_model")
    shutil.rmtree(checkpoint.list_saved(folder / "run")[-1])
    return run(folder, max_steps=4, save_every=2, **changes)


def test_a_run_resumes_and_replays_from_checkpoints_of_torch_and_from_pieces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path, max_steps=4, save_every=2, checkpoint_format="dcp")
    files = os.listdir(checkpoint.list_saved(tmp_path / "run")[-1])
    assert sorted(files) == [".metadata", "__0_0.distcp", "manifest.json"]
    again = resume(tmp_path, checkpoint_format="state")
    assert to_bytes(again.state) == to_bytes(whole.state)
    shutil.rmtree(checkpoint.list_saved(tmp_path / "run")[-1])
    shutil.rmtree(checkpoint.list_saved(tmp_path / "run")[0])
    run(tmp_path, max_steps=4, save_every=2)  # from the start
    shutil.rmtree(checkpoint.list_saved(tmp_path / "run")[-1])
    with crew(2) as two:
        two.run(save_in_rows, tmp_path / "run")
    assert len(list(checkpoint.list_saved(tmp_path / "run")[-1].glob("state-*.msgpack"))) == 2
    assert to_bytes(run(tmp_path, max_steps=4, save_every=2).state) == to_bytes(whole.state)
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "run"), "--step", "3"]) == 0
    assert "equal, bit for bit" in capsys.readouterr().out
