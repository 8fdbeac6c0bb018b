"""Make the one file that Flax reads of the pieces that several processes wrote."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pure.serial.writer import DTYPES, Lazy
from stages.checkpoint import directories, manifest, state_file
from stages.checkpoint.assemble import Located, Place, fill, locate, read_places, read_value, whole_shape
from stages.checkpoint.manifest import DCP, MANIFEST
from stages.checkpoint.records import LeafRecord, Piece
from stages.checkpoint.saving import Warn
from stages.checkpoint.skeleton import read_skeleton


def to_msgpack(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    step: int | None = None,
    warn: Warn = warnings.warn,
) -> Path:
    """Writes a checkpoint as one file, with the bytes of `flax.serialization.to_bytes`.

    A run that ends on many processes can so continue in JAX. The file is that which one process would have
    written, and one leaf is in memory at a time.

    Args:
        folder: a run's folder, of which the newest undamaged checkpoint is taken; or a checkpoint's.
        out: the file to write; it must not exist.
        step: the checkpoint's step; None is the newest.
        warn: is called with a line for each damaged checkpoint that is skipped.

    Returns:
        The file.

    Steps:
        1. List the checkpoints, the newest first.
        2. Write leaf by leaf: read its rows from all pieces, and verify them. At damage take the next one.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        FileExistsError: if `out` exists.
        ValueError: if all are damaged, with the file and the leaf, or have the format of
            torch.distributed.checkpoint; nothing is left at `out`.
        OSError: if the disk refuses.

    Example:
        >>> import tempfile
        >>> from stages.checkpoint import checkpoint
        >>> with tempfile.TemporaryDirectory() as run:
        ...     path = checkpoint.save(run, {"w": torch.ones(2)}, step=7)
        ...     one = to_msgpack(run, run + "/state.msgpack").read_bytes()
        ...     one == (path / "state.msgpack").read_bytes()
        True
    """
    # 1. Checkpoints.
    paths = directories.list_complete(Path(folder), step)
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no checkpoint here; expected a run's folder, with checkpoints/step-*"
        )
    damage = ""
    for path in paths:
        try:
            # 2. Leaves.
            return _write(path, Path(out))
        except (ValueError, FileNotFoundError) as error:
            damage = str(error)
            warn(f"to_msgpack: skipped a damaged checkpoint: {damage}")
    raise ValueError(f"{damage}; no other checkpoint is left")


def _write(path: Path, out: Path) -> Path:
    """Writes one checkpoint as one file; raises ValueError or FileNotFoundError if it is damaged."""
    with (path / MANIFEST).open("rb") as file:
        try:
            record = manifest.read(file)
        except ValueError as error:
            raise ValueError(f"{path / MANIFEST}: {error}") from None
    if record.format == DCP:
        raise ValueError(
            f"{path} has the format of torch.distributed.checkpoint, which keeps no empty containers; load "
            "it with checkpoint.load, and save it again"
        )
    files = manifest.files_of(record)
    by_number: dict[int | None, list[Located]] = {None: []}
    for located in locate(files):
        by_number.setdefault(located.number, []).append(located)
    leaves = [leaf for leaf in files[0].leaves if leaf.dtype != "end"]
    try:
        _verify(path, by_number[None], {})
        values = [_read_later(path, files[0], by_number[i], leaf) for i, leaf in enumerate(leaves)]
        state_file.write_dict(out, fill(read_skeleton(path, files[0]), values))
    except FileExistsError:
        raise
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return out


def _read_later(path: Path, first: Piece, located: Sequence[Located], leaf: LeafRecord) -> Any:
    """A leaf that is read when it is written; the value of one that is no tensor."""
    if leaf.dtype not in DTYPES:
        _verify(path, located, {})
        return read_value(path, first, leaf)
    shape, dtype = whole_shape(leaf), getattr(torch, leaf.dtype)
    return Lazy(shape, dtype, partial(_read_leaf, path, located, shape, dtype))


def _read_leaf(path: Path, located: Sequence[Located], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Reads one leaf from all pieces, and verifies it."""
    place = Place(torch.empty(shape, dtype=dtype), 0)
    number = located[0].number
    assert number is not None
    _verify(path, located, {number: place})
    return place.rows


def _verify(path: Path, located: Sequence[Located], places: Mapping[int, Place]) -> None:
    """Reads leaves into their places; raises if a byte is wrong."""
    damage = read_places(path, located, places, None)
    if damage is not None:
        raise ValueError(f"{path / damage.file}: {damage.reason}; leaves {', '.join(damage.leaves)}")
