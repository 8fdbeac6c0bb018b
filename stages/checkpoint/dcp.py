"""Checkpoints in the format of torch.distributed.checkpoint (DCP), which other tools read.

    RUN/checkpoints/step-00000100/.metadata       every leaf's shape and dtype, and where its rows are
                                  __0_0.distcp    what process 0 wrote
                                  manifest.json   ours: length and sha256 of every file

Leaves are named "params.layers.0.attention.q". DCP plans a save with collectives; here its planner and its
storage get the plans of all processes by an exchange before the save, so that files are written in threads.
Loading needs none. Two of its habits are guarded: it loads a flipped bit, and it casts to the target's dtype,
both without a word.

Source: torch.distributed.checkpoint (`SavePlanner`, `StorageWriter`, `LoadPlanner`, `StorageReader`).
"""

from __future__ import annotations

import base64
import errno
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from data_pipes.digest import hash_blocks
from data_pipes.files import read_blocks, sync_file
from pure import tree
from pure.parallel import rows
from pure.parallel.dtensor import is_dtensor
from pure.parallel.group import Group
from pure.serial.writer import SerialError, name_of
from pure.types import Tree
from stages.checkpoint.damage import Damage
from stages.checkpoint.manifest import DCP, Manifest
from stages.checkpoint.pieces import copy_to_host
from stages.checkpoint.records import Piece
from stages.checkpoint.saving import Writing

if TYPE_CHECKING:  # each function imports what it calls: our own format does not need it
    from torch.distributed.checkpoint import DefaultSavePlanner
    from torch.distributed.checkpoint.metadata import Metadata

_BLOCK = 1 << 20

METADATA = ".metadata"
"""The file in which DCP describes all others."""
_METADATA_CLASSES = (
    "Metadata",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "TensorProperties",
    "MetadataIndex",
    "StorageMeta",
    "_MEM_FORMAT_ENCODING",
)
_OTHER_GLOBALS = (
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
)


class Planned(NamedTuple):
    """One process's part of a save.

    Fields:
        leaves: the state, {name: tensor}.
        planner: has made the local plan.
    """

    leaves: dict[str, Tensor]
    planner: DefaultSavePlanner


def plan_locally(state: Tree, group: Group) -> tuple[Any, Planned]:
    """Makes this process's plan.

    Args:
        state: tree of tensors, cut into rows or the same on all processes.
        group: the processes.

    Returns:
        (the plan, which all must get; Planned).

    Raises:
        SerialError: for a leaf that is no tensor, or two of one name.
    """
    from torch.distributed.checkpoint import DefaultSavePlanner

    paths = tree.paths(state)
    leaves = {path.replace("/", "."): leaf for path, leaf in zip(paths, tree.leaves(state), strict=True)}
    if len(leaves) != len(paths):
        raise SerialError("two leaves have one name in the format dcp; rename the key that has a dot in it")
    for name, leaf in leaves.items():
        if not isinstance(leaf, Tensor):
            raise SerialError(
                f"{name}: --checkpoint_format dcp holds tensors only, got {type(leaf).__name__}; make it a "
                "0-d tensor, or use the format state"
            )
    nested = _nest({tuple(path.split("/")): leaf for path, leaf in zip(paths, leaves.values(), strict=True)})
    planner = DefaultSavePlanner()
    planner.set_up_planner(nested, is_coordinator=group.rank == 0)
    return planner.create_local_plan(), Planned(leaves, planner)


def plan_together(planned: Planned, plans: Sequence[Any]) -> tuple[list[Any], Metadata]:
    """Makes the plan of all processes, on the first one.

    Args:
        planned: from `plan_locally`.
        plans: of all processes, by rank.

    Returns:
        (the plan of each process, what `.metadata` will have): all must get the first.

    Raises:
        ValueError: if the plans do not fit together.
    """
    return planned.planner.create_global_plan(list(plans))


def prepare_writing(
    planned: Planned, plans: Sequence[Any], metadata: Metadata | None, folder: Path, group: Group, copy: bool
) -> Writing:
    """Copies what this process writes, and returns the functions that write it.

    Args:
        planned: from `plan_locally`.
        plans, metadata: from `plan_together`; the metadata is needed on the first process only.
        folder: the temporary folder, which exists.
        group: the processes.
        copy: copy what is written, so that the state may be overwritten.

    Returns:
        Writing; `gather` writes `.metadata`. Its `write` raises an OSError for what DCP cannot write, with
        the system's own reason.
    """
    from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter

    writer = FileSystemWriter(folder)
    writer.set_up_storage_writer(group.rank == 0)
    own = writer.prepare_global_plan(list(plans))[group.rank]
    needed = {item.index.fqn for item in own.items}
    source = {name: _copy(x) if copy else x for name, x in planned.leaves.items() if name in needed}
    planner = DefaultSavePlanner(flatten_state_dict=False)
    planner.set_up_planner(source, is_coordinator=group.rank == 0)
    own = planner.finish_plan(own)

    def write() -> Any:
        try:
            written = writer.write_data(own, planner)
            written.wait()
        except (RuntimeError, OSError) as error:
            size = sum(rows.local([x])[0].nbytes for x in source.values())
            _raise_cause(error, folder / f"__{group.rank}_0.distcp", size)
        results = base64.b64encode(pickle.dumps(written.value())).decode()
        files = sorted(folder.glob(f"__{group.rank}_*.distcp"))
        return {"results": results, "files": [_describe(file) for file in files]}

    def gather(record: Manifest, words: Sequence[Any]) -> Manifest:
        assert metadata is not None
        # Written by this run's own processes moments ago, in a folder of this save alone.
        writer.finish(metadata, [pickle.loads(base64.b64decode(word["results"])) for word in words])
        files = [_describe(folder / METADATA), *(file for word in words for file in word["files"])]
        pieces = tuple(Piece(file["file"], file["bytes"], (), file["sha256"]) for file in files)
        return record._replace(format=DCP, pieces=pieces)

    return Writing(write, gather, lambda rank: f"__{rank}_0.distcp")


def read(
    folder: Path, files: Sequence[Piece], target: Tree, group: Group | None, *, subset: bool = False
) -> tuple[Tree, Damage | None]:
    """Reads a state; no collective is made.

    Args:
        folder: of the checkpoint.
        files: its files, from the manifest.
        target: as in `assemble.read`. Empty containers and None are those of the target, as DCP stores none.
        group: processes that read together; each verifies its share of the files before DCP reads.
        subset: True lets the checkpoint have leaves that the target lacks.

    Returns:
        (the tree, damage): use the tree only if there is none.

    Raises:
        OSError: if the disk refuses.
        SerialError: if a leaf is missing, unknown, or has another shape or dtype.
        ValueError: if `.metadata` is not what DCP writes.
    """
    first, *others = files
    if first.file != METADATA:
        raise SerialError(f"expected {METADATA} as the first file, got {first.file}")
    mine = [x for i, x in enumerate(others) if group is None or i % group.size == group.rank]
    if (damage := find_damage(folder, [first, *mine])) is not None:
        return target, damage
    metadata = read_metadata(folder)
    names = {piece.file for piece in files}
    if unknown := [x.relative_path for x in metadata.storage_data.values() if x.relative_path not in names]:
        raise SerialError(f"{METADATA} names {unknown[0]!r}, which manifest.json does not")
    state = _empty_like(metadata, target, subset)
    try:
        _read_leaves(folder, metadata, state)
    except Exception as error:
        if (damage := find_damage(folder, others)) is not None:
            return target, damage
        raise OSError(0, f"{folder}: torch.distributed.checkpoint cannot read it: {error}") from error
    if target is None:
        names = metadata.planner_data
        return _nest({tuple(map(str, names[name])): x for name, x in state.items()}), None
    leaves, spec = tree.flatten(target)
    values = [state[path.replace("/", ".")] for path in tree.paths(target)]
    return tree.unflatten(spec, list(map(_finish, values, leaves))), None


def find_damage(folder: Path, files: Sequence[Piece]) -> Damage | None:
    """Compares files with their records.

    Returns:
        The damage of the first file whose length or sha256 differs; None if none does.
    """
    for piece in files:
        try:
            size, digest = (folder / piece.file).stat().st_size, ""
            if size == piece.bytes:
                digest = hash_blocks(read_blocks(folder / piece.file))
        except OSError as error:
            return Damage(piece.file, (), error.strerror or str(error))
        if size != piece.bytes:
            how = "is cut off" if size < piece.bytes else "is too long"
            return Damage(piece.file, (), f"it {how}: {piece.bytes} bytes were written, the file has {size}")
        if digest != piece.sha256:
            return Damage(piece.file, (), "bytes have changed since it was written (sha256)")
    return None


def read_metadata(folder: Path) -> Metadata:
    """Reads `.metadata`, a pickle, of which only the classes that DCP writes are made.

    Raises:
        ValueError: if it has anything else.
    """
    from torch.distributed.checkpoint.metadata import Metadata

    try:
        with (folder / METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
    except Exception as error:
        raise ValueError(f"{folder / METADATA}: not what torch writes ({error})") from None
    if not isinstance(metadata, Metadata):
        raise ValueError(f"{folder / METADATA}: not what torch writes ({type(metadata).__name__})")
    return metadata


class _Unpickler(pickle.Unpickler):
    """Makes the classes of DCP's metadata, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        ours = module == "torch.distributed.checkpoint.metadata" and name in _METADATA_CLASSES
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if ours or is_dtype or (module, name) in _OTHER_GLOBALS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not read")


def _empty_like(metadata: Metadata, target: Tree, subset: bool) -> dict[str, Tensor]:
    """Memory for the leaves of a target by name, after shapes and dtypes are compared."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    stored = metadata.state_dict_metadata
    others = [name for name, x in stored.items() if not isinstance(x, TensorStorageMetadata)]
    if others:
        raise SerialError(f"{others[0]}: an object that is no tensor; it is not read, as it can run code")
    if target is None:
        tensors = [(name, x) for name, x in stored.items() if isinstance(x, TensorStorageMetadata)]
        return {name: torch.empty(x.size, dtype=x.properties.dtype) for name, x in tensors}
    leaves = {
        path.replace("/", "."): leaf
        for path, leaf in zip(tree.paths(target), tree.leaves(target), strict=True)
    }
    missing, extra = sorted(leaves.keys() - stored.keys()), sorted(stored.keys() - leaves.keys())
    if missing:
        raise SerialError(f"{missing[0]}: the target has it, the data lacks it ({len(missing)} such leaves)")
    if extra and not subset:
        raise SerialError(f"{extra[0]}: the data has it, the target lacks it ({len(extra)} such leaves)")
    return {name: _empty_leaf(name, leaf, stored[name]) for name, leaf in leaves.items()}


def _empty_leaf(name: str, like: Any, stored: Any) -> Tensor:
    """Memory for one leaf on the CPU: whole, or cut as the target's."""
    has = f"{name_of(stored.properties.dtype)}{list(stored.size)}"
    if not hasattr(like, "dtype"):
        raise SerialError(f"{name}: expected a Python {type(like).__name__}, got {has}")
    if like.dtype != stored.properties.dtype or tuple(like.shape) != tuple(stored.size):
        raise SerialError(
            f"{name}: expected {name_of(like.dtype)}{list(like.shape)}, got {has}; was it saved with another "
            "config?"
        )
    if not is_dtensor(like):
        return torch.empty(tuple(like.shape), dtype=like.dtype)
    mine = rows.local([like])[0]
    return rows.wrap([torch.empty(mine.shape, dtype=mine.dtype)], [like])[0]


def _read_leaves(folder: Path, metadata: Metadata, state: dict[str, Tensor]) -> None:
    """Reads into the tensors of `state`, by the steps of `torch.distributed.checkpoint.load`."""
    from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader

    reader = FileSystemReader(folder)
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(state), metadata, True)
    reader.set_up_storage_reader(metadata, True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    plan = reader.prepare_global_plan(planner.create_global_plan([plan]))[0]
    reader.read_data(planner.finish_plan(plan), planner).wait()


def _finish(value: Tensor, like: Any) -> Tensor:
    """A leaf on the device of the target's."""
    device = like.device if isinstance(like, Tensor) and like.device.type != "meta" else torch.device("cpu")
    if not is_dtensor(like):
        return value.to(device)
    return rows.wrap([rows.local([value])[0].to(device)], [like])[0]


def _copy(leaf: Tensor) -> Tensor:
    """A copy in host memory, cut as the leaf is."""
    return rows.wrap([copy_to_host(rows.local([leaf])[0])], [leaf])[0]


def _raise_cause(error: RuntimeError | OSError, file: Path, size: int) -> NoReturn:
    """Raises the system's reason for a file that DCP could not write, which torch's errors leave out.

    The file, which its caller deletes, is written again, with zeros of as many bytes.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    with file.open("wb") as again:
        for _ in range(size // _BLOCK + 1):
            again.write(bytes(_BLOCK))
        sync_file(again)
    text = str(error).strip().partition("\n")[0]
    raise OSError(errno.EIO, f"torch.distributed.checkpoint could not write it: {text}", str(file)) from error


def _nest(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Nested dicts of leaves by their paths."""
    nested: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = nested
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return nested


def _describe(path: Path) -> dict[str, Any]:
    """Name, length and sha256 of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": hash_blocks(read_blocks(path))}
