"""Load one checkpoint's folder: its manifest, whether it belongs to the run, and its state, verified."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pure.serial.writer import SerialError
from pure.types import Tree
from stages.checkpoint import manifest, state_file
from stages.checkpoint.directories import step_of
from stages.checkpoint.fingerprint import NAMES
from stages.checkpoint.manifest import MANIFEST, STATE, Damage, Manifest


class Skipped(NamedTuple):
    """A damaged checkpoint, which `load` skipped."""

    path: Path
    file: str  # "state.msgpack" or "manifest.json"
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
    path: Path, target: Tree, fingerprint: Mapping[str, str] | None, subset: bool
) -> Loaded | Damage:
    """Loads one checkpoint.

    Args:
        path: its folder.
        target, fingerprint, subset: as in `checkpoint.load`.

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
    _check_fingerprint(path, record, fingerprint)
    try:
        size = (path / STATE).stat().st_size
        if size != record.bytes:
            damage = _find_damage(path / STATE, record)
            return damage or Damage(STATE, (), "its length changes while it is read")
        state, damaged_leaves = state_file.read(path / STATE, target, record.leaves, size, subset=subset)
    except OSError as error:
        return _damage_of_file(record, error)
    except SerialError as error:
        damage = _find_damage(path / STATE, record)
        if damage is None:  # every byte is right
            raise SerialError(f"checkpoint.load: {path} does not fit the target: {error}") from None
        return damage
    if damaged_leaves:
        return manifest.damage_of_leaves(damaged_leaves)
    return Loaded(state, record.step, path, record, ())


def _find_damage(path: Path, record: Manifest) -> Damage | None:
    """The damaged leaves of a state's file, or None."""
    try:
        with open(path, "rb") as file:
            return manifest.find_damage(file, os.fstat(file.fileno()).st_size, record)
    except OSError as error:
        return _damage_of_file(record, error)


def _damage_of_file(record: Manifest, error: OSError) -> Damage:
    """The damage of a state's file that is missing or unreadable: no leaf can be trusted."""
    return Damage(STATE, tuple(leaf.path for leaf in record.leaves), reason_of(error))


def _check_fingerprint(path: Path, record: Manifest, fingerprint: Mapping[str, str] | None) -> None:
    """Raises if a checkpoint belongs to another run, or to a version in which functions have other names."""
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


def reason_of(error: Exception) -> str:
    """Return an error's message; of an OSError, without the number and the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
