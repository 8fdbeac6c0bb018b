"""Read and write config.json, the flags and the model's configuration from which a run resumes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from data_pipes import files
from pure.config import ModelConfig
from stages.checkpoint import directories
from stages.models import hub
from stages.run.options import values
from stages.run.options.ranges import Flags

NAME = "config.json"
MODEL = "final_model"
"""Folder of the trained model, in the run's folder."""

PRETRAINING = "pretrain"
"""Stage of a run whose config.json has no "stage"."""

WITHOUT_EFFECT = (
    "output_dir",
    "save_every",
    "keep_last",
    "checkpoint_format",
    "eval_every",
    "patience",
    "resume",
    "wandb",
    "tensorboard",
    "workers",
    "sample_prompt",
    "rollout_server",
    "rollout_folder",
)
"""Flags that a resumed run may change: no step's result depends on them. (With a server or without one is a
matter of the fingerprint.)"""

MACHINE = ("device", "compile", "backend", "shard", "tensor_parallel")
"""Flags that a resumed run may change, though results then differ by rounding."""

COMPARED_ELSEWHERE = (
    "config",
    "data_path",
    "tokenizer_path",
    "field",
    "encoding",
    "subset",
    "split",
    "held_out",
    "filter",
    "on_bad",
)
"""Flags that are compared by their contents, not their values: the model's configuration by
`refuse_other_model`, the data by `stages.run.data.provenance`."""

NOT_COMPARED = (*WITHOUT_EFFECT, *MACHINE, *COMPARED_ELSEWHERE)
"""Flags whose values are not compared."""

PATHS = ("model_path", "reward")
"""Flags whose paths may change: the fingerprint has the digests of their files (`stages.models.identity`,
`stages.run.rewards.identity`). Only the name of a reward is compared here."""

Options = TypeVar("Options", bound=Flags)


def read_options(folder: Path, kind: type[Options]) -> Options:
    """Reads the flags of a past run into the dataclass of its stage.

    Args:
        folder: folder of the run.
        kind: the dataclass of its stage's flags.

    Raises:
        ValueError: if there is no config.json of a run, or it is from another version or stage.
    """
    path = folder / NAME
    fields = _fields(path)["options"]
    return values.build(kind, fields, str(path))


def read_stage(folder: Path) -> str | None:
    """Reads the stage of a past run; None is pretraining.

    Raises:
        ValueError: if the folder has no config.json of a run.
    """
    name = _fields(folder / NAME).get("stage")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{folder / NAME}: stage is {json.dumps(name)[:60]}, expected a name")
    return name


def read_flags(folder: Path) -> dict[str, Any]:
    """Reads the flags of a past run of any stage as a dict, without validating them.

    Raises:
        ValueError: if the folder has no config.json of a run.
    """
    return _fields(folder / NAME)["options"]


def describe_run(flags: Flags, model: ModelConfig, stage: str | None) -> dict[str, Any]:
    """Returns the contents of config.json.

    Args:
        flags: all flags of the run.
        model: the model's configuration.
        stage: name of the stage; None is pretraining.

    Returns:
        {"stage", "model_source", "options", "model", "intro2llm", "torch", "threads"}: "hub" or "folder",
        where --model_path is, every flag, the model's configuration, versions, and torch's threads. Without
        a stage or --model_path, their fields are missing.
    """
    path = getattr(flags, "model_path", None)
    source = "hub" if path and hub.is_name(path) else "folder"
    return {
        **({"stage": stage} if stage else {}),
        **({"model_source": source} if path else {}),
        "options": dataclasses.asdict(flags),
        "model": dataclasses.asdict(model),
        "intro2llm": version("intro2llm"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def write(folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes config.json.

    Args:
        folder: folder of the run.
        fields: contents of the file, from `describe_run`.
    """
    files.write_json(folder / NAME, fields)


def refuse_other_stage(folder: Path, stage: str | None) -> None:
    """Raises if a folder has checkpoints or a model of another stage.

    Args:
        folder: folder of the run, which need not exist.
        stage: name of the stage; None is pretraining.

    Raises:
        ValueError: if a run of another stage is there, or config.json is not that of a run.
    """
    if not (folder / NAME).exists():
        return
    saved_stage = read_stage(folder)
    if saved_stage != stage and (directories.list_complete(folder) or (folder / MODEL).exists()):
        raise ValueError(
            f"{folder} holds a run of {saved_stage or PRETRAINING}, not of {stage or PRETRAINING}: choose "
            f"another --output_dir; --model_path {folder} starts from its weights"
        )


def refuse_other_flags(folder: Path, flags: Flags) -> list[str]:
    """Raises if a run of the same stage has checkpoints and was started with other values of its flags.

    Args:
        folder: folder of the run, which need not exist.
        flags: all flags of the run.

    Returns:
        Messages for the user, one for each flag of MACHINE that has changed.

    Raises:
        ValueError: if a flag that affects results has changed (the message names it), or if config.json is
            not that of a run.
    """
    path = folder / NAME
    if not path.exists():
        return []
    saved = _fields(path)["options"]
    if not directories.list_complete(folder):
        return []
    current = json.loads(json.dumps(dataclasses.asdict(flags)))  # tuples become lists
    changed = {
        name: f"--{name} was {saved.get(name)}, is {value}"
        for name, value in current.items()
        if not _is_same(name, saved.get(name), value)
    }
    _refuse_earlier_version(
        folder, [name for name in changed if name not in saved and name not in NOT_COMPARED]
    )
    _refuse_changes(folder, [text for name, text in changed.items() if name not in NOT_COMPARED])
    return [
        f"{text}: the run resumes, but not bit for bit"
        for name, text in changed.items()
        if name in MACHINE and name in saved
    ]


def refuse_other_model(folder: Path, model: Mapping[str, Any]) -> None:
    """Raises if a run has checkpoints and was started with another model configuration.

    Args:
        folder: folder of the run, which need not exist.
        model: fields of the model's configuration now.

    Raises:
        ValueError: if a field differs; the message names it.
    """
    if (folder / NAME).exists() and directories.list_complete(folder):
        saved = _fields(folder / NAME).get("model", {})
        if not isinstance(saved, Mapping):
            raise ValueError(
                f"{folder / NAME}: model is {json.dumps(saved)[:60]}, expected a model's configuration"
            )
        _refuse_changes(
            folder,
            [
                f"--config: {name} was {saved.get(name)}, is {value}"
                for name, value in model.items()
                if saved.get(name) != value
            ],
        )


def _is_same(name: str, saved: Any, current: Any) -> bool:
    """Tests whether two values of a flag count as the same.

    The paths in PATHS may differ, since the digests of their files are compared elsewhere. Two values of
    model_path are the same if both are paths, or neither is; two of reward, if their names are equal.
    """
    if saved == current or name not in PATHS:
        return bool(saved == current)
    if name == "model_path":
        return saved is not None and current is not None
    if not isinstance(saved, list) or not isinstance(current, list):
        return False
    return [_reward_name(reward) for reward in saved] == [_reward_name(reward) for reward in current]


def _reward_name(reward: Any) -> str:
    """Returns the name in --reward: of a built-in reward, or of the function in "file.py:function".

    A folder of a reward model is only a path, so its name is "".
    """
    from stages.run.rewards.functions import BUILT_IN

    text = str(reward)
    if text in BUILT_IN:
        return text
    return text.rpartition(":")[2] if ":" in text else ""


def _refuse_earlier_version(folder: Path, missing: list[str]) -> None:
    """Raises if config.json lacks flags, which means that an earlier version wrote it."""
    if missing:
        raise ValueError(
            f"{folder} holds a run of an earlier version, which had no --{', no --'.join(missing)}; "
            f"it cannot be resumed: choose another --output_dir; --model_path {folder} starts from its "
            "weights"
        )


def _refuse_changes(folder: Path, changes: list[str]) -> None:
    """Raises if there are changes, each described by one text of the list."""
    if changes:
        raise ValueError(
            f"{folder} holds a run that began with other flags: {'; '.join(changes)}. Set these back to "
            "resume it, or choose another --output_dir"
        )


def _fields(path: Path) -> dict[str, Any]:
    """Reads config.json; raises ValueError if it is not that of a run."""
    try:
        fields = files.read_json(path)
    except FileNotFoundError:
        fields = {}
    if not isinstance(fields.get("options"), dict):
        raise ValueError(f"{path}: expected the config.json of a run, with its options; give a run's folder")
    return fields
