"""Read what a card says from the files of a run: model, data, base, how it ended."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes import files
from data_pipes.source.hub import is_name
from stages.card.evaluations import Evaluation, read_evaluations
from stages.card.section import read_front
from stages.models import adapter_folder, checksums
from stages.models.hub import CARD
from stages.models.identity import NAME as START
from stages.report.record import Run, read_run
from stages.run.config_file import MODEL
from stages.run.data import sources
from stages.run.sessions import read_sessions

MAX_HEADER = 100 << 20
"""Largest header of a file of weights, in bytes, as in the library safetensors."""


class Weights(NamedTuple):
    """The weights of final_model.

    Fields:
        kind: "model", "adapters" or "reward model".
        count: number of parameters in the files.
        dtypes: of the tensors, as safetensors names them.
        digests: file -> sha256, from SHA256SUMS.
        config: config.json of the model, or adapter_config.json.
    """

    kind: str
    count: int  # type: ignore[assignment]
    dtypes: tuple[str, ...]
    digests: Mapping[str, str]
    config: Mapping[str, Any]


class Base(NamedTuple):
    """A model that a run started from.

    Fields:
        path: as it was given to --model_path.
        stage: of the run that made it; "" if it is not a run's folder, or its folder is gone.
        digest: of its weights; "" if unknown.
        license: that its card states; "" if unknown.
        on_hub: whether the run recorded that the path is a name on the hub.
    """

    path: str
    stage: str
    digest: str
    license: str
    on_hub: bool


class Facts(NamedTuple):
    """All that a card says.

    Fields:
        name: of the run's folder.
        run: flags, model, versions, metrics, gains.
        weights: of final_model.
        bases: the models that the run started from, the nearest first.
        data: where the data came from, of data.json; {} if the run recorded nothing.
        data_license: that a card beside the data states; "" if unknown.
        tokens: of a pretraining run: its token store's description; {} otherwise.
        seconds: time of all sessions; 0 if unknown.
        evaluations: of this model.
        notes: what was left out, a sentence each.
    """

    name: str
    run: Run
    weights: Weights
    bases: tuple[Base, ...]
    data: Mapping[str, Any]
    data_license: str
    tokens: Mapping[str, Any]
    seconds: float
    evaluations: tuple[Evaluation, ...]
    notes: tuple[str, ...]


def read_facts(folder: Path, evaluations: Sequence[Path] = ()) -> Facts:
    """Read the files of a run that has a final_model.

    Args:
        folder: of the run.
        evaluations: folders of evaluations besides those in the run's folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not a run's folder, has no final_model, or a file is damaged; for an evaluation
            of another model.
    """
    run = _hide_folder(read_run(folder), folder)
    model = folder / MODEL
    if not model.is_dir():
        raise ValueError(
            f"{folder}: it has no {MODEL}, so that there is nothing to describe; a run has one once it is "
            "complete: run its command again, or give the folder of another run"
        )
    sums = checksums.read(model)
    own, notes = read_evaluations(folder, model, evaluations)
    data_path = str(run.flags.get("data_path") or "")
    return Facts(
        name=folder.resolve().name,
        run=run,
        weights=_read_weights(model, sums),
        bases=_read_bases(folder),
        data=sources.read(folder),
        data_license=read_license(Path(data_path)) if data_path else "",
        tokens=_read_json(folder / "data" / "train" / "manifest.json"),
        seconds=sum(session.seconds or 0.0 for session in read_sessions(folder)),
        evaluations=own,
        notes=notes,
    )


def read_license(folder: Path) -> str:
    """Read the licence that a card in a folder states; "" if there is none, or it cannot be read."""
    path = folder / CARD
    try:
        found = read_front(path.read_text("utf-8")).get("license") if path.is_file() else None
    except (OSError, ValueError):
        return ""
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found or "")


def is_dataset_name(path: str, data: Mapping[str, Any]) -> bool:
    """Tell whether a run's data are a data set on the hub, by what the run recorded.

    What is in the current folder does not matter: the run may have been started in another one.

    Args:
        path: --data_path of the run.
        data: data.json of the run; without it nothing is known, and the answer is no.
    """
    is_recorded = data.get("data_path") == path and not data.get("files")
    return is_recorded and path != "embedded" and is_name(path)


def _hide_folder(run: Run, folder: Path) -> Run:
    """The run with notes that name its files without the path of its folder, as it was typed."""
    pattern = re.compile(rf"(?<![\w./~-]){re.escape(str(folder))}(?:/|(?![\w.-]))")
    if str(folder) in (".", ".."):
        return run
    return run._replace(notes=tuple(pattern.sub("", note) for note in run.notes))


def _read_bases(folder: Path) -> tuple[Base, ...]:
    """The chain of runs and models that a run started from."""
    bases: list[Base] = []
    seen = {folder.resolve()}
    while True:
        path = _read_flags(folder).get("model_path")
        if not isinstance(path, str) or not path:
            return tuple(bases)
        digest = _read_fingerprint(folder).get(START, "").rpartition("sha256:")[2].removeprefix("float32:")
        if _read_json(folder / "config.json").get("model_source") == "hub":
            return (*bases, Base(path, "", digest, "", on_hub=True))
        base = Path(path).parent if Path(path).name == MODEL else Path(path)
        stage = str(_read_json(base / "config.json").get("stage") or "pretrain") if _read_flags(base) else ""
        license = read_license(base / MODEL) or read_license(Path(path))
        bases.append(Base(path, stage, digest, license, on_hub=False))
        if not stage or base.resolve() in seen:
            return tuple(bases)
        folder = base
        seen.add(folder.resolve())


def _read_flags(folder: Path) -> Mapping[str, Any]:
    """Flags of a run; {} if the folder is none."""
    options = _read_json(folder / "config.json").get("options")
    return options if isinstance(options, dict) else {}


def _read_fingerprint(folder: Path) -> Mapping[str, str]:
    """The fingerprint of the newest checkpoint; {} without one."""
    for path in sorted(folder.glob("checkpoints/step-*/manifest.json"), reverse=True):
        fingerprint = _read_json(path).get("fingerprint")
        if isinstance(fingerprint, dict):
            return fingerprint
    return {}


def _read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; {} for a file that is missing or none."""
    try:
        return files.read_json(path)
    except (OSError, ValueError):
        return {}


def _read_weights(model: Path, sums: Mapping[str, str]) -> Weights:
    """The contents of the files of weights, by their headers."""
    is_adapter = (model / adapter_folder.CONFIG).is_file()
    config = _read_json(model / (adapter_folder.CONFIG if is_adapter else "config.json"))
    tensors = [tensor for path in sorted(model.glob("*.safetensors")) for tensor in _read_header(path)]
    kind = "adapters" if is_adapter else "model"
    if any("SequenceClassification" in str(name) for name in config.get("architectures") or ()):
        kind = "reward model"
    return Weights(
        kind,
        sum(math.prod(tensor["shape"]) for tensor in tensors),
        tuple(sorted({tensor["dtype"] for tensor in tensors})),
        {name: digest for name, digest in sums.items() if name.endswith(".safetensors")},
        config,
    )


def _read_header(path: Path) -> list[dict[str, Any]]:
    """Entries of the tensors in the header of a safetensors file."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, MAX_HEADER)))
        return [entry for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, struct.error, AttributeError) as error:
        raise ValueError(
            f"{path}: not a sound safetensors file ({error}); copy it again from its source"
        ) from None
