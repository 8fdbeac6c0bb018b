"""Locate the tensors of a model in the files that its index names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipes import files


def locate_tensors(folder: Path, name: str) -> dict[Path, list[str] | None]:
    """Finds the files of a model's weights.

    Args:
        folder: of the model.
        name: of the file where there is only one, such as "model.safetensors"; "NAME.index.json" is the index
            of several.

    Returns:
        {file: the tensors to read from it}; without an index None, which stands for all.

    Raises:
        FileNotFoundError: if the index names a file that is not there.
        ValueError: if the index is damaged, names a file outside the folder, or the folder has a whole model
            that the index does not name.
    """
    index, single = folder / f"{name}.index.json", folder / name
    if not index.is_file():
        return {single: None}
    tensors_of: dict[str, list[str]] = {}
    for tensor, file in _weight_map(index).items():
        tensors_of.setdefault(_check_name(index, tensor, file), []).append(tensor)
    if single.is_file() and name not in tensors_of:
        raise ValueError(
            f"{folder}: {name} stands beside {index.name}, which names other files; transformers reads the "
            "first alone: remove whichever is out of date"
        )
    if missing := sorted(file for file in tensors_of if not (folder / file).is_file()):
        raise FileNotFoundError(
            f"{index}: weight_map names {missing[0]!r}, which is not in the folder ({len(missing)} of "
            f"{len(tensors_of)} files are missing); copy the whole folder again from its source"
        )
    return {folder / file: tensors for file, tensors in tensors_of.items()}


def select_tensors(path: Path, tensors: list[str] | None, there: list[str], known: set[str]) -> list[str]:
    """Selects the tensors to read from one file.

    A copy of a tensor that the index assigns to another file is not read.

    Args:
        path: of the file.
        tensors: that the index assigns to it; None for all.
        there: names of the tensors in the file.
        known: every tensor of the index.

    Returns:
        The names to read.

    Raises:
        ValueError: if one is missing, or the file has one that the index does not name.
    """
    if tensors is None:
        return there
    if missing := sorted(set(tensors) - set(there)):
        raise ValueError(
            f"{path}: {missing[0]!r} is missing, which the index says is in it ({len(missing)} tensors are); "
            "copy the file and its index again from their source"
        )
    if spare := sorted(set(there) - known):
        raise ValueError(
            f"{path}: {spare[0]!r} is in no weight_map of the index ({len(spare)} tensors are not); copy the "
            "index again from its source"
        )
    return tensors


def _weight_map(index: Path) -> Mapping[str, Any]:
    """The field of the index."""
    names = files.read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        problem = "is missing" if names is None else f"is {str(names)[:40]!r}"
        raise ValueError(f"{index}: weight_map {problem}; expected an object {{tensor: file}}")
    return names


def _check_name(index: Path, tensor: str, file: Any) -> str:
    """The name, if it is that of a .safetensors file in the folder itself, of at most 255 bytes."""
    plain = (
        isinstance(file, str) and file.isprintable() and Path(file).name == file and len(file.encode()) < 256
    )
    if not plain or not file.endswith(".safetensors"):
        raise ValueError(
            f"{index}: weight_map of {tensor!r} is {str(file)[:80]!r}; expected the name of a .safetensors "
            "file in the same folder"
        )
    return file
