"""config.json: a run resumes only with the flags that it was started with, by the values of each flag.

`stages/run/options/values.py` is tested here too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stages.run import config_file
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import GRPOOptions, SFTOptions


def write_run(folder: Path, *, saved: bool = True, **changes: Any) -> Path:
    """A run's folder, with a checkpoint or without."""
    folder.mkdir(exist_ok=True)
    options = vars(PretrainOptions(output_dir=str(folder), **changes))
    config_file.write(folder, {"options": options, "model": {"hidden_size": 32, "qk_norm": False}})
    if saved:
        (folder / "checkpoints" / "step-00000003").mkdir(parents=True)
    return folder


def test_flags_are_read_back_unchanged(tmp_path: Path) -> None:
    options = PretrainOptions(
        learning_rate=0.1 + 0.2, model_path="a b", ema=None, compile=False, output_dir=str(tmp_path)
    )
    config_file.write(tmp_path, {"options": vars(options)})
    assert config_file.read_options(tmp_path, PretrainOptions) == options


def test_changed_flags_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"--learning_rate was 0\.001, is 0\.002; --seed was 0, is 1\. Set these back"
    ):
        config_file.refuse_other_flags(folder, PretrainOptions(learning_rate=0.002, seed=1))


def test_a_run_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """A flag that the earlier version did not have cannot be set back."""
    folder = write_run(tmp_path / "run")
    fields = json.loads((folder / "config.json").read_text())
    for name in ("seed", "batch_size", "eval_every"):
        del fields["options"][name]
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(
        ValueError, match="run of an earlier version, which had no --batch_size, no --seed; it cannot"
    ):
        config_file.refuse_other_flags(folder, PretrainOptions())


def test_a_run_of_another_stage_is_refused_by_its_name(tmp_path: Path) -> None:
    """With checkpoints or only a model; a run that was interrupted before both may be replaced."""
    folder = write_run(tmp_path / "run")
    config_file.refuse_other_stage(folder, None)
    with pytest.raises(
        ValueError, match="run holds a run of pretrain, not of sft: choose another --output_dir"
    ):
        config_file.refuse_other_stage(folder, "sft")
    config_file.write(folder, {"stage": "sft", "options": {}})
    with pytest.raises(ValueError, match=r"a run of sft, not of pretrain: .*--model_path .* starts from its"):
        config_file.refuse_other_stage(folder, None)
    (folder / "checkpoints" / "step-00000003").rmdir()
    config_file.refuse_other_stage(folder, None)
    (folder / "final_model").mkdir()
    with pytest.raises(ValueError, match="a run of sft, not of dpo"):
        config_file.refuse_other_stage(folder, "dpo")
    config_file.refuse_other_stage(tmp_path / "nothing", "dpo")


def test_flags_of_saving_validation_logging_and_workers_may_change(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    changed = PretrainOptions(
        output_dir="moved", save_every=7, eval_every=0, patience=3, tensorboard=True, resume=False, workers=3
    )
    assert config_file.refuse_other_flags(folder, changed) == []


def test_paths_that_the_fingerprint_compares_may_change(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", model_path="w/base")
    assert config_file.refuse_other_flags(folder, PretrainOptions(model_path="../w/base")) == []
    with pytest.raises(ValueError, match="--model_path was w/base, is None"):
        config_file.refuse_other_flags(folder, PretrainOptions())
    rewards = ["correct", "a/mine.py:short", "w/judge"]
    options = vars(GRPOOptions(model_path="m", reward=tuple(rewards)))
    config_file.write(folder, {"stage": "grpo", "options": options})
    same = GRPOOptions(model_path="m", reward=("correct", "b/mine.py:short", "w/judge/final_model"))
    assert config_file.refuse_other_flags(folder, same) == []
    for other in (("correct",), ("a/mine.py:long", *rewards[1:]), ("w/judge", *rewards[1:])):
        with pytest.raises(ValueError, match="--reward was"):
            config_file.refuse_other_flags(folder, GRPOOptions(model_path="m", reward=other))


def test_a_changed_device_or_compile_flag_is_reported(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    messages = config_file.refuse_other_flags(folder, PretrainOptions(compile=False, device="cpu"))
    assert messages == [
        "--device was auto, is cpu: the run resumes, but not bit for bit",
        "--compile was True, is False: the run resumes, but not bit for bit",
    ]


def test_a_run_without_checkpoints_may_start_with_other_flags(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", saved=False)
    assert config_file.refuse_other_flags(folder, PretrainOptions(learning_rate=1.0, compile=False)) == []
    assert config_file.refuse_other_flags(tmp_path / "nothing", PretrainOptions()) == []


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    config_file.refuse_other_model(folder, {"hidden_size": 32, "qk_norm": False})
    with pytest.raises(ValueError, match=r"--config: hidden_size was 32, is 64"):
        config_file.refuse_other_model(folder, {"hidden_size": 64, "qk_norm": False})
    config_file.refuse_other_model(write_run(tmp_path / "new", saved=False), {"hidden_size": 64})


@dataclass(frozen=True)
class OtherOptions:
    """Flags of another stage."""

    beta: float = 0.1


def test_a_file_that_is_not_the_config_of_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: expected the config\.json of a run"):
        config_file.read_options(tmp_path, PretrainOptions)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for read in (
        config_file.read_options,
        lambda folder, kind: config_file.refuse_other_flags(folder, kind()),
    ):
        with pytest.raises(ValueError, match=r"expected the config\.json of a run, with its options"):
            read(tmp_path, PretrainOptions)
    with pytest.raises(ValueError, match=r"unknown flags backend, batch_size, .*another version or stage"):
        config_file.read_options(write_run(tmp_path / "run"), OtherOptions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": "4"}, 'batch_size is "4", expected a whole number'),
        ({"batch_size": ...}, ""),  # ... deletes the flag; without a message, its default is read
        ({"learning_rate": [0.1]}, r"learning_rate is \[0.1\], expected a number"),
        ({"compile": 1}, "expected true or false"),
        ({"schedule": "wave"}, "expected one of cosine, linear"), ({"ema": {}}, "expected a number or null"),
        ({"model_path": ...}, "the flags model_path are missing"),
        ({"lora_targets": [1]}, "expected a list of text"),
        ({"later": 1}, "unknown flags later"),
        ({"max_steps": True}, "max_steps is true, expected a whole number or null"),
    ],
)  # fmt: skip
def test_a_damaged_flag_is_named(change: dict, message: str, tmp_path: Path) -> None:
    options = json.loads(json.dumps(vars(SFTOptions(model_path="m", lora_targets=("q",)))))
    options = {name: value for name, value in (options | change).items() if value is not ...}
    config_file.write(tmp_path, {"options": options})
    if not message:
        assert config_file.read_options(tmp_path, SFTOptions).lora_targets == ("q",)
        return
    with pytest.raises(ValueError, match=message) as caught:
        config_file.read_options(tmp_path, SFTOptions)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))


def test_other_fields_of_a_damaged_file_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    config_file.write(folder, {"options": {}, "stage": [1], "model": 3})
    with pytest.raises(ValueError, match="stage is"):
        config_file.read_stage(folder)
    with pytest.raises(ValueError, match="model is 3"):
        config_file.refuse_other_model(folder, {"hidden_size": 1})
