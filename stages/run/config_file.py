"""config.json: the resolved configuration of a run, from which it is resumed and replayed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from data_pipes import files
from pure.config import ModelConfig
from stages.checkpoint import directories
from stages.run.options import values

NAME = "config.json"
BEHAVIOUR = (
    "output_dir",
    "save_every",
    "keep_last",
    "eval_every",
    "patience",
    "resume",
    "wandb",
    "tensorboard",
)
"""Flags that a resumed run may change: what is computed does not depend on them."""

MACHINE = ("device", "compile")
"""Flags that it may change, and that change the last bits."""

ELSEWHERE = (
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
"""Flags that are compared by what they stand for: the model below, the data by
`stages.run.data.provenance`."""

CONTENTS = ("model_path", "reward")
"""Flags that may name the same thing by another path: the fingerprint has what is in it
(`stages.models.identity`, `stages.run.rewards.identity`). Of a reward the name is compared here."""

Options = TypeVar("Options")


def read(folder: Path, kind: type[Options]) -> Options:
    """Reads the flags of a past run back.

    Args:
        folder: of the run.
        kind: the dataclass of its stage's flags.

    Raises:
        ValueError: if there is none, or it is of another version or stage.
    """
    path = folder / NAME
    fields = _fields(path)["options"]
    return values.build(kind, fields, str(path))


def stage(folder: Path) -> str | None:
    """Says which stage a past run was of; None is pretraining.

    Raises:
        ValueError: if the folder has no config.json of a run.
    """
    name = _fields(folder / NAME).get("stage")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{folder / NAME}: stage is {json.dumps(name)[:60]}, expected a name")
    return name


def flags(folder: Path) -> dict[str, Any]:
    """The flags of a past run, of whatever stage.

    Raises:
        ValueError: if the folder has no config.json of a run.
    """
    return _fields(folder / NAME)["options"]


def resolved(options: Any, model: ModelConfig, stage: str | None) -> dict[str, Any]:
    """Returns what config.json holds.

    Args:
        options: a dataclass of flags.
        model: its configuration.
        stage: name of the stage; None is pretraining.

    Returns:
        {"stage", "options", "model", "torch", "threads"}: every flag, the model, the version and the threads of torch.
    """
    return {
        **({"stage": stage} if stage else {}),
        "options": dataclasses.asdict(options),
        "model": dataclasses.asdict(model),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def write(folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes config.json.

    Args:
        folder: of the run.
        fields: from `resolved`.
    """
    files.write_json(folder / NAME, fields)


def refuse_other_flags(folder: Path, options: Any) -> list[str]:
    """Compares the flags with those that a run with checkpoints began with.

    Args:
        folder: of the run, which need not exist.
        options: a dataclass of plain values.

    Returns:
        What to tell a person: flags that change the last bits.

    Raises:
        ValueError: if a flag differs that changes what is computed, by name; or if config.json is not ours.
    """
    path = folder / NAME
    if not path.exists():
        return []
    was, now = (
        _fields(path)["options"],
        json.loads(json.dumps(dataclasses.asdict(options))),
    )  # tuples become lists
    changed = {
        name: f"--{name} was {was.get(name)}, is {value}"
        for name, value in now.items()
        if not _same(name, was.get(name), value)
    }
    if not directories.list_complete(folder):
        return []
    _refuse_earlier(
        folder,
        [name for name in changed if name not in was and name not in (*BEHAVIOUR, *MACHINE, *ELSEWHERE)],
    )
    told = [text for name, text in changed.items() if name not in (*BEHAVIOUR, *MACHINE, *ELSEWHERE)]
    _refuse(folder, told)
    return [
        f"{text}: the run goes on, though not bit for bit"
        for name, text in changed.items()
        if name in MACHINE
    ]


def refuse_other_model(folder: Path, model: Mapping[str, Any]) -> None:
    """Compares the model's configuration with the one that a run with checkpoints began with.

    Args:
        folder: of the run, which need not exist.
        model: the fields of its configuration now.

    Raises:
        ValueError: if a field differs, by name.
    """
    if (folder / NAME).exists() and directories.list_complete(folder):
        was = _fields(folder / NAME).get("model", {})
        if not isinstance(was, Mapping):
            raise ValueError(
                f"{folder / NAME}: model is {json.dumps(was)[:60]}, expected a model's configuration"
            )
        _refuse(
            folder,
            [
                f"--config: {name} was {was.get(name)}, is {value}"
                for name, value in model.items()
                if was.get(name) != value
            ],
        )


def _same(name: str, was: Any, now: Any) -> bool:
    """Whether two values of a flag are the same, or differ only in paths to what is compared elsewhere."""
    if was == now or name not in CONTENTS:
        return bool(was == now)
    if name == "model_path":
        return was is not None and now is not None
    return all(isinstance(one, list) for one in (was, now)) and [*map(_named, was)] == [*map(_named, now)]


def _named(reward: Any) -> str:
    """A reward without its path: a function's name, a name of those that are built in, or, of a folder,
    nothing."""
    from stages.run.rewards.functions import BUILT_IN

    text = str(reward)
    return text if text in BUILT_IN else text.rpartition(":")[2] if ":" in text else ""


def _refuse_earlier(folder: Path, lacking: list[str]) -> None:
    """Raises for a run whose flags were fewer: no flag could be set back."""
    if lacking:
        raise ValueError(
            f"{folder} holds a run of an earlier version, which had no --{', no --'.join(lacking)}; it cannot go on "
            f"with this one: take another --output_dir, and --model_path {folder} to start from its weights"
        )


def _refuse(folder: Path, told: list[str]) -> None:
    """Raises if there is something to tell."""
    if told:
        raise ValueError(
            f"{folder} holds a run that began with other flags: {'; '.join(told)}. Set these back to go on with it, or "
            "choose another --output_dir"
        )


def _fields(path: Path) -> dict[str, Any]:
    """What is in the file, if it is of a run."""
    try:
        fields = files.read_json(path)
    except FileNotFoundError:
        fields = {}
    if not isinstance(fields.get("options"), dict):
        raise ValueError(f"{path}: expected the config.json of a run, with its options; give a run's folder")
    return fields
