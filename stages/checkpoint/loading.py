"""Load one checkpoint's folder: its manifest, whether it belongs to the run, and its state, verified."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pure.parallel import rows
from pure.parallel.group import Group
from pure.serial.writer import SerialError
from pure.types import Tree
from stages.checkpoint import assemble, dcp, manifest, state_file
from stages.checkpoint.damage import Damage, damage_of_leaves, find_damage, reason_of
from stages.checkpoint.directories import step_of
from stages.checkpoint.fingerprint import NAMES
from stages.checkpoint.manifest import DCP, MANIFEST, ONE_FILE, STATE, Manifest
from stages.checkpoint.records import Piece


class Skipped(NamedTuple):
    """A damaged checkpoint, which `load` skipped."""

    path: Path
    file: str  # "state.msgpack", the name of a piece, or "manifest.json"
    leaves: tuple[str, ...]  # paths of the damaged leaves; () if unknown
    reason: str


class Loaded(NamedTuple):
    """Result of `load`.

    Fields:
        state: a tree like the target.
        step: the checkpoint's step.
        path: its folder.
        manifest: its metadata, score, fingerprint, ...
        skipped: newer checkpoints that are damaged, the newest first.
    """

    state: Tree
    step: int
    path: Path
    manifest: Manifest
    skipped: tuple[Skipped, ...]


def load_one(
    path: Path,
    target: Tree,
    fingerprint: Mapping[str, str] | None,
    subset: bool,
    group: Group | None = None,
) -> Loaded | Damage:
    """Loads one checkpoint; no collective is made.

    Args:
        path: its folder.
        target, fingerprint, subset: as in `checkpoint.load`.
        group: processes that load together: each verifies what it reads, and its share of the rest.

    Returns:
        Loaded, or the damage if it has any.

    Raises:
        ValueError: if the fingerprint differs.
        SerialError: if no byte is wrong, and the state does not fit the target.
    """
    try:
        with open(path / MANIFEST, "rb") as file:
            record = manifest.read(file)
    except (OSError, ValueError) as error:
        return Damage(MANIFEST, (), reason_of(error))
    if step_of(path) not in (-1, record.step):  # -1: a copy under another name
        return Damage(MANIFEST, (), f"it is the manifest of step {record.step}, not {step_of(path)}")
    check_fingerprint(path, record, fingerprint)
    files = manifest.files_of(record)
    for piece in files:
        if (damage := _damage_of_length(path, piece)) is not None:
            return damage
    try:
        state, damage = _read(path, record, target, subset, group)
    except OSError as error:
        return _damage_of_file(next((x for x in files if x.file in str(error.filename)), files[0]), error)
    except SerialError as error:
        find = dcp.find_damage if record.format == DCP else _find_first_damage
        damage = find(path, files)
        if damage is None:  # every byte is right
            raise SerialError(f"checkpoint.load: {path} does not fit the target: {error}") from None
        return damage
    return damage or Loaded(state, record.step, path, record, ())


def _read(
    path: Path, record: Manifest, target: Tree, subset: bool, group: Group | None
) -> tuple[Tree, Damage | None]:
    """Reads the state from one file or from pieces."""
    files = manifest.files_of(record)
    if record.format == ONE_FILE and (target is None or not rows.is_cut(target)):
        file = path / STATE
        state, bad = state_file.read(file, target, record.leaves, record.bytes, subset=subset)
        return state, damage_of_leaves(STATE, bad) if bad else None
    if record.format == DCP:
        return dcp.read(path, files, target, group, subset=subset)
    return assemble.read(path, files, target, group, subset=subset)


def _damage_of_length(path: Path, piece: Piece) -> Damage | None:
    """The damage of a file that is missing, or shorter or longer than it was."""
    try:
        size = (path / piece.file).stat().st_size
    except OSError as error:
        return _damage_of_file(piece, error)
    if size == piece.bytes:
        return None
    if not piece.leaves:
        return dcp.find_damage(path, [piece])
    return _find_damage(path, piece) or Damage(piece.file, (), "its length changes while it is read")


def _find_first_damage(path: Path, files: Sequence[Piece]) -> Damage | None:
    """The damage of the first file that has any."""
    return next((found for piece in files if (found := _find_damage(path, piece))), None)


def _find_damage(path: Path, piece: Piece) -> Damage | None:
    """The damaged leaves of one file, or None."""
    try:
        with open(path / piece.file, "rb") as file:
            return find_damage(file, os.fstat(file.fileno()).st_size, piece)
    except OSError as error:
        return _damage_of_file(piece, error)


def _damage_of_file(piece: Piece, error: OSError) -> Damage:
    """The damage of a file that is missing or unreadable: no leaf in it can be trusted."""
    return Damage(piece.file, tuple(leaf.path for leaf in piece.leaves), reason_of(error))


def check_fingerprint(path: Path, record: Manifest, fingerprint: Mapping[str, str] | None) -> None:
    """Raises if a checkpoint belongs to another run, or to a version in which functions have other names.

    Args:
        path: of the checkpoint, for the message.
        record: its manifest.
        fingerprint: of the run that resumes; None compares nothing.

    Raises:
        ValueError: if the fingerprint differs; the message has the first differences.
    """
    if fingerprint is None:
        return
    if record.fingerprint is None:
        raise ValueError(
            f"checkpoint.load: {path} has no fingerprint; in Python, fingerprint=None loads it unchecked"
        )
    if record.fingerprint.get(NAMES) != fingerprint.get(NAMES):
        raise ValueError(
            f"checkpoint.load: {path} was written by another version, in which a run's functions have other "
            "names. Nothing in it is lost: that version finishes the run, and --model_path takes a "
            "final_model of any version (in Python, fingerprint=None loads the state). To train with this "
            "version, choose another --output_dir"
        )
    if lines := manifest.differences(record.fingerprint, fingerprint):
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise ValueError(
            f"checkpoint.load: {path} was saved by another run: {'; '.join(lines[:8])}{more}. Set these "
            "back, or choose another folder"
        )
