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
        name: file name of an unsharded model, such as "model.safetensors"; "NAME.index.json" is the index of
            a sharded one.

    Returns:
        {file: the tensors to read from it}, with None for all tensors if there is no index.

    Raises:
        FileNotFoundError: if the index names a file that is not there.
        ValueError: if the index is damaged, names a file outside the folder, or the folder also has an
            unsharded model.
    """
    index, single = folder / f"{name}.index.json", folder / name
    if not index.is_file():
        return {single: None}
    tensors_of: dict[str, list[str]] = {}
    for tensor, file in _weight_map(index).items():
        tensors_of.setdefault(_check_name(index, tensor, file), []).append(tensor)
    if single.is_file() and name not in tensors_of:
        raise ValueError(
            f"{folder}: has both {name} and {index.name}, which names other files; transformers would read "
            "only the first: remove whichever is out of date"
        )
    if missing := sorted(file for file in tensors_of if not (folder / file).is_file()):
        raise FileNotFoundError(
            f"{index}: weight_map names {missing[0]!r}, which is not in the folder ({len(missing)} of "
            f"{len(tensors_of)} files are missing); copy the whole folder again from its source"
        )
    return {folder / file: tensors for file, tensors in tensors_of.items()}


def select_tensors(path: Path, assigned: list[str] | None, stored: list[str], indexed: set[str]) -> list[str]:
    """Selects the tensors to read from one file.

    A copy of a tensor that the index assigns to another file is not read.

    Args:
        path: of the file.
        assigned: tensors that the index assigns to this file; None reads all.
        stored: tensors in the file.
        indexed: all tensors of the index.

    Returns:
        The names to read.

    Raises:
        ValueError: if one is missing, or the file has one that the index does not name.
    """
    if assigned is None:
        return stored
    if missing := sorted(set(assigned) - set(stored)):
        raise ValueError(
            f"{path}: {missing[0]!r} is missing, though the index assigns it to this file (tensors missing: "
            f"{len(missing)}); copy the file and its index again from their source"
        )
    if unindexed := sorted(set(stored) - indexed):
        raise ValueError(
            f"{path}: {unindexed[0]!r} is not in the weight_map of the index (tensors not in it: "
            f"{len(unindexed)}); copy the index again from its source"
        )
    return assigned


def _weight_map(index: Path) -> Mapping[str, Any]:
    """Reads the weight_map of an index: {tensor: file}."""
    names = files.read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        problem = "is missing" if names is None else f"is {str(names)[:40]!r}"
        raise ValueError(f"{index}: weight_map {problem}; expected an object {{tensor: file}}")
    return names


def _check_name(index: Path, tensor: str, file: Any) -> str:
    """Returns the file name; refuses all but a .safetensors file in the folder itself (<= 255 bytes)."""
    is_name = (
        isinstance(file, str) and file.isprintable() and Path(file).name == file and len(file.encode()) < 256
    )
    if not is_name or not file.endswith(".safetensors"):
        raise ValueError(
            f"{index}: weight_map of {tensor!r} is {str(file)[:80]!r}; expected the name of a .safetensors "
            "file in the same folder"
        )
    return file
