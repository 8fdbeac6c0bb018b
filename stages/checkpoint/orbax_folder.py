"""Files of an Orbax checkpoint: find the folder of one tree, and read its arrays with tensorstore.

    FOLDER/_METADATA              every leaf's keys, and what kind of value it is
    FOLDER/manifest.ocdbt, d/     the arrays, in one key-value store (or FOLDER/NAME/ for each array)
    FOLDER/_CHECKPOINT_METADATA   when it was written; what `orbax.write` adds: a checksum of every leaf

Orbax's own reader starts JAX, which takes seconds, reserves most of a GPU's memory, and wants the devices
that wrote the arrays. tensorstore, on which Orbax is built, needs none of it, and reads arrays that any
number of devices wrote. Files in OCDBT have checksums of their structure, though not of their numbers;
arrays in folders of their own (`use_ocdbt=False`) have none.

Formats: Orbax (versions 0.5 to 0.12, `orbax.checkpoint` and its v1), Zarr 2 and 3, OCDBT.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipes import files
from pure.serial.writer import DTYPES, memory, name_of
from pure.types import Tree

TREE, ROOT, STRINGS, MANIFEST = "_METADATA", "_CHECKPOINT_METADATA", "_strings.json", "manifest.ocdbt"
TEMPORARY = ".orbax-checkpoint-tmp"
"""Part of the name of a folder that Orbax has not finished."""
OURS = "intro2llm"
"""Field of the custom metadata that holds the checksums."""
REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:/")
_STEP = re.compile(r"(?:.*_)?(\d+)")
_SEQUENCE, _DICT = 1, 2
_EMPTY: Mapping[str, Any] = {"None": None, "NamedTuple": None, "Dict": {}, "List": [], "Tuple": ()}
_MESSAGE = 300
_UNFINISHED = "the save was never finished, or only a part was copied; copy it again, or read an earlier one"


@dataclass(frozen=True)
class Stored:
    """An array that was opened and not read yet; a leaf of a tree.

    Args:
        path: folder and path of the leaf, for messages.
        array: the open tensorstore.TensorStore.
        dtype: dtype of the array.
        shape: its shape.
        scalar: whether it is read as a Python number.
        digest: checksum to compare with; "" if there is none.
        cast: for a number that is read as a tensor, the tensor's dtype; None for any other leaf.
    """

    path: str
    array: Any
    dtype: torch.dtype
    shape: tuple[int, ...]
    scalar: bool
    digest: str
    cast: torch.dtype | None = None


class _Entry(NamedTuple):
    """A leaf in the metadata: (key, kind of its container) from the root, and its kind of value."""

    keys: tuple[tuple[str, int], ...]
    kind: str


def find_item(path: Path, *, prefer: str = "") -> Path:
    """Finds the folder of one tree at or below a path.

    Args:
        path: a tree's folder (StandardCheckpointer); a folder with one such item (`default`, `state`, ...),
            as CheckpointManager writes for a step; or a CheckpointManager's folder, of which the newest step
            is taken.
        prefer: name of the item to take of several.

    Returns:
        The folder with the tree's metadata.

    Edge cases: what a killed save left beside finished steps is ignored, as Orbax does.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is no Orbax folder, was not finished, or holds several trees; they are named.
    """
    if REMOTE.match(str(path)):
        raise ValueError(f"{path}: only local folders are read; copy it here first")
    path = path.absolute()
    if TEMPORARY in path.name:
        raise ValueError(f"{path}: this save was never finished; read an earlier one, or save again")
    if not path.exists():
        left = sorted(x.name for x in path.parent.glob(f"{glob.escape(path.name)}{TEMPORARY}*"))
        why = f"; a save of it was never finished ({left[0]})" if left else ""
        raise FileNotFoundError(f"{path} is missing; expected a folder that Orbax wrote{why}")
    if not path.is_dir():
        raise ValueError(f"{path}: expected a folder that Orbax wrote, got a file")
    if (path / TREE).is_file():
        return path
    if (path / MANIFEST).is_file() or any(path.glob("ocdbt.process_*")):
        raise ValueError(f"{path}: {TREE} is missing: {_UNFINISHED}")
    folders = sorted(x for x in path.iterdir() if x.is_dir() and TEMPORARY not in x.name)
    items = [x for x in folders if (x / TREE).is_file() and not _STEP.fullmatch(x.name)]
    preferred = [x for x in items if x.name == prefer]
    if len(items) == 1 or preferred:
        return (preferred or items)[0]
    if items:
        names = ", ".join(x.name for x in items)
        raise ValueError(f"{path}: holds several trees ({names}); choose one, such as {items[0]}")
    steps = {int(match[1]): x for x in folders if (match := _STEP.fullmatch(x.name))}
    if steps:
        return find_item(steps[max(steps)], prefer=prefer)
    raise ValueError(f"{path}: {_explain_absence(path)}")


def is_orbax(path: Path) -> bool:
    """Tells whether `find_item` finds something that Orbax wrote, or began to write, at a path."""
    marks = (TREE, ROOT, MANIFEST, "orbax.checkpoint")
    if not path.is_dir():
        return (
            TEMPORARY in path.name
            or next(path.parent.glob(f"{glob.escape(path.name)}{TEMPORARY}*"), None) is not None
        )
    patterns = [f"{depth}{mark}" for depth in ("", "*/", "*/*/") for mark in marks]
    return TEMPORARY in path.name or any(next(path.glob(pattern), None) for pattern in patterns)


def open_tree(item: Path) -> Tree:
    """Opens every array of a tree, and reads none.

    Args:
        item: from `find_item`.

    Returns:
        Nested dict and list as Orbax returns them without a template; leaves are `Stored` or strings; what
        was empty is None, {}, [] or ().

    Raises:
        ValueError: if the metadata or an array is missing, damaged or not understood; the leaf is named.
        ImportError: if tensorstore is not installed.
    """
    metadata = _read_json(item / TREE)
    if metadata.get("use_ocdbt") and not (item / MANIFEST).is_file():
        raise ValueError(f"{item}: {MANIFEST} is missing: {_UNFINISHED}")
    entries = _entries(item, metadata)
    names = [_name(entry) for entry in entries]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{item}: Orbax stored two leaves under the one name {twice[0]!r}, so that one is lost; rename a "
            "key that has a dot in it, and save again"
        )
    arrays = [
        None if entry.kind in (*_EMPTY, "string") else _open(item, metadata, name)
        for entry, name in zip(entries, names, strict=True)
    ]
    strings = _read_json(item / STRINGS) if any(entry.kind == "string" for entry in entries) else {}
    digests = read_digests(item)
    arrays_read = {name for name, array in zip(names, arrays, strict=True) if array is not None}
    if digests and (differing := sorted(arrays_read ^ set(digests))):
        raise ValueError(f"{item / TREE}: damaged at {differing[0]!r}; copy the whole folder again")
    values = []
    for entry, name, array in zip(entries, names, arrays, strict=True):
        if entry.kind in _EMPTY:
            values.append((entry.keys, _EMPTY[entry.kind]))
        elif entry.kind == "string":
            values.append((entry.keys, _string(item, entry, name, strings)))
        else:
            values.append((entry.keys, _stored(item, entry, array, digests.get(name, ""))))
    return _nest(item, values)


def read_leaf(stored: Stored) -> Any:
    """Reads an array, and verifies its checksum if it has one.

    Args:
        stored: from `open_tree`.

    Returns:
        A tensor with storage of its own, or a Python number if it was one.

    Raises:
        ValueError: if data is missing or damaged; the leaf is named.
    """
    try:
        numbers = stored.array.read().result()
    except Exception as error:
        raise ValueError(f"{stored.path}: {one_line(error)}; copy the whole folder again") from None
    if numbers.dtype.isbuiltin != 1:  # bfloat16 and float8, which torch does not take from numpy
        numbers = numbers.view(f"uint{8 * numbers.dtype.itemsize}")
    tensor = torch.from_numpy(numbers).view(stored.dtype)
    if stored.digest and digest(tensor) != stored.digest:
        raise ValueError(f"{stored.path}: damaged, its checksum differs; copy the whole folder again")
    if stored.cast is not None:
        return _cast_number(stored, tensor, stored.cast)
    return tensor.item() if stored.scalar else tensor


def digest(tensor: Tensor) -> str:
    """Returns the sha256 of a CPU tensor's dtype, shape and bytes.

    Example:
        >>> digest(torch.zeros(2)) == digest(torch.zeros(1, 2))
        False
    """
    head = f"{name_of(tensor.dtype)}{list(tensor.shape)}".encode()
    result = hashlib.sha256(head)
    result.update(memory(tensor.contiguous()))
    return result.hexdigest()


def read_digests(item: Path) -> Mapping[str, str]:
    """Reads the checksums that `orbax.write` left; {} for a folder that something else wrote."""
    if not (item / ROOT).is_file():
        return {}
    custom = _read_json(item / ROOT).get("custom_metadata")
    ours = custom.get(OURS) if isinstance(custom, dict) else None
    sums = ours.get("sha256") if isinstance(ours, dict) else None
    return sums if isinstance(sums, dict) else {}


def one_line(error: Exception) -> str:
    """Returns tensorstore's message without its list of source lines and specifications."""
    text = re.split(r"\s*\[(?:source locations|tensorstore_spec)=", str(error))[0]
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE else text[:_MESSAGE] + " ..."


def _explain_absence(path: Path) -> str:
    """Says why a folder has no tree."""
    unfinished = sorted(x.name for x in path.iterdir() if TEMPORARY in x.name)
    if unfinished:
        return f"the save was never finished ({unfinished[0]}); read an earlier one, or save again"
    if (path / "checkpoint").is_file():
        return f"written by an Orbax older than 0.5, without {TREE}; read it with Orbax and save it again"
    below = sorted(
        {x.relative_to(path).parts[0] for end in ("*/*", "*/*/*") for x in path.glob(f"{end}/{TREE}")}
    )
    if below:
        return f"holds trees in {', '.join(below[:4])}; name one of these folders, such as {path / below[0]}"
    return f"no folder that Orbax wrote: it has no {TREE}, no item and no step"


def _entries(item: Path, metadata: Mapping[str, Any]) -> list[_Entry]:
    """The leaves of the metadata, in its order."""
    entries = []
    try:
        for fields in metadata["tree_metadata"].values():
            keys = tuple((str(key["key"]), int(key["key_type"])) for key in fields["key_metadata"])
            entries.append(_Entry(keys, str(fields["value_metadata"]["value_type"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{item / TREE}: not understood ({one_line(error)}); copy it again") from None
    if not entries:
        raise ValueError(f"{item}: holds no leaf")
    return entries


def _name(entry: _Entry) -> str:
    """The name that Orbax gives an array: its keys, joined by dots."""
    return ".".join(key for key, _ in entry.keys)


def _path(entry: _Entry) -> str:
    """The path of a leaf in messages."""
    return "/".join(key for key, _ in entry.keys) or "root"


def _open(item: Path, metadata: Mapping[str, Any], name: str) -> Any:
    """Begins to open an array; the future's result is the array."""
    try:
        import tensorstore
    except ImportError:
        raise ImportError(
            "tensorstore, with which an Orbax folder is read, is not installed: pip install 'intro2llm[jax]'"
        ) from None
    store: dict[str, Any] = {"driver": "file", "path": f"{item}/{name}/"}
    if metadata.get("use_ocdbt", (item / MANIFEST).is_file()):
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}, "path": f"{name}/"}
    elif ".." in name.split("/"):
        raise ValueError(f"{item}: the leaf {name!r} lies outside the folder; it is not read")
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    # An array of which a part is missing would else be filled with zeros.
    spec = {"driver": driver, "kvstore": store, "fill_missing_data_reads": False}
    return tensorstore.open(spec, open=True, read=True)


def _stored(item: Path, entry: _Entry, future: Any, checksum: str) -> Stored:
    """Waits for an array to be opened."""
    path = _path(entry)
    try:
        array = future.result()
        name, shape = array.dtype.numpy_dtype.name, tuple(array.shape)
    except Exception as error:
        raise ValueError(f"{item}: {path}: {one_line(error)}; copy the whole folder again") from None
    if name not in DTYPES:
        raise ValueError(f"{item}: {path}: torch has no dtype {name}; convert it in JAX and save again")
    scalar = entry.kind == "scalar" and shape == ()
    return Stored(f"{item}: {path}", array, getattr(torch, name), shape, scalar, checksum)


def _cast_number(stored: Stored, number: Tensor, dtype: torch.dtype) -> Tensor:
    """A Python number as a 0-d tensor; refuses an integer that the dtype cannot hold."""
    cast = number.to(dtype)
    if not dtype.is_floating_point and cast.item() != number.item():
        raise ValueError(
            f"{stored.path}: {number.item()} does not fit in {name_of(dtype)}; use a wider dtype"
        )
    return cast


def _string(item: Path, entry: _Entry, name: str, strings: Mapping[str, Any]) -> str:
    """A leaf that is a text."""
    if not isinstance(text := strings.get(name), str):
        raise ValueError(f"{item / STRINGS}: {_path(entry)} is missing; copy the whole folder again")
    return text


def _nest(item: Path, entries: Sequence[tuple[tuple[tuple[str, int], ...], Any]]) -> Tree:
    """Builds the tree from (keys, value) pairs that share all keys before these."""
    if len(entries) == 1 and not entries[0][0]:
        return entries[0][1]
    groups: dict[str, list] = {}
    kinds = set()
    for keys, value in entries:
        if not keys:
            raise ValueError(f"{item / TREE}: a leaf and a container share one path; copy it again")
        groups.setdefault(keys[0][0], []).append((keys[1:], value))
        kinds.add(keys[0][1])
    if kinds == {_DICT}:
        return {key: _nest(item, group) for key, group in groups.items()}
    if kinds == {_SEQUENCE} and set(groups) == {str(i) for i in range(len(groups))}:
        return [_nest(item, groups[str(i)]) for i in range(len(groups))]
    raise ValueError(
        f"{item / TREE}: the keys {sorted(groups)[:4]} are neither those of a dict nor 0, 1, ... of a list; "
        "copy it again"
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Reads one of the folder's JSON files."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; copy the whole folder again") from None
    except ValueError as error:
        raise ValueError(f"{error}; copy the whole folder again") from None
