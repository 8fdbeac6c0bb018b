"""Checkpoints: a state on the disk, whole or not at all, and verified before it is believed.

    RUN/checkpoints/step-00000100/{state.msgpack, manifest.json}

`state.msgpack` is in Flax's format, so that a run can go on in JAX; the manifest has a checksum of every
leaf, and says what run it was. One process at a time saves into a run's folder. To save beside the training:
`background.saver`.
"""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_pipes.files import sync_folder, write_new
from pure.serial.writer import SerialError
from pure.types import Tree
from stages.checkpoint import directories, manifest, state_file
from stages.checkpoint.directories import step_of
from stages.checkpoint.manifest import MANIFEST, STATE, Damage, Manifest

Warn = Callable[[str], Any]


class Refused(NamedTuple):
    """A checkpoint that could not be believed."""

    path: Path
    file: str  # "state.msgpack" or "manifest.json"
    leaves: tuple[str, ...]  # paths of the damaged leaves; () if that cannot be told
    reason: str


class Loaded(NamedTuple):
    """What `load` found.

    Fields:
        state: a tree like the target.
        step: of the checkpoint.
        path: its folder.
        manifest: all that it says of itself (metadata, score, fingerprint, ...).
        refused: newer checkpoints that were damaged, the newest first; () if all is well.
    """

    state: Tree
    step: int
    path: Path
    manifest: Manifest
    refused: tuple[Refused, ...]


def save(
    folder: str | os.PathLike[str],
    state: Tree,
    *,
    step: int | None = None,
    score: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    fingerprint: Mapping[str, str] | None = None,
    keep_last: int | None = None,
    keep_best: int = 0,
    warn: Warn = warnings.warn,
) -> Path:
    """Saves a state, so that it is on the disk when this returns, and whatever was saved before stays until
    then.

    A checkpoint matters on the day when something goes wrong: the power, the disk, the process in the middle
    of this function. At every moment of it there is a complete checkpoint under a final name, if there ever
    was one.

    Args:
        folder: of the run; made if it is not there. The checkpoint goes to folder/checkpoints/step-NNNNNNNN.
        state: any tree that `pure.serial.serial.to_bytes` takes, such as a TrainState.
        step: which step it is, >= 0; by default `int(state.step)`.
        score: what `keep_best` and `best` go by, lower is better (negate an accuracy); None or NaN is never
            best.
        metadata: JSON that `load` gives back.
        fingerprint: from `fingerprint.fingerprint(stage, ...)`; `load` refuses to go on with another.
        keep_last: how many checkpoints to keep, the newest; None keeps all.
        keep_best: how many to keep besides these, those with the lowest score.
        warn: told when an old checkpoint could not be deleted; the save has then succeeded all the same.

    Returns:
        The folder of the checkpoint.

    Steps:
        1. A temporary folder beside the others, hence on the same file system; what killed saves left is
           removed.
        2. The state: written, hashed and fsynced.
        3. The manifest, with sha256 and length of the file and of each leaf: fsynced, and the folder too.
        4. The final name, by a rename; fsync of the parent. A checkpoint of the same step steps aside until
           then.
        5. Only now the deletion of old ones, and of one that was replaced.

    Raises:
        OSError: if the disk is full, or refuses in another way; nothing that was saved is lost.
        ValueError: if the step is unknown or negative, or keep_last is below 1.
        TypeError: if the metadata is not JSON.
        SerialError: if a leaf cannot be written.
    """
    step = _state_step(state) if step is None else step
    if step < 0 or (keep_last is not None and keep_last < 1) or keep_best < 0:
        raise ValueError(
            f"checkpoint.save: needs step >= 0, keep_last >= 1, got {step=}, {keep_last=}, {keep_best=}"
        )
    told = manifest.about(step, score, metadata, fingerprint)
    final = directories.folder_of(Path(folder).absolute(), step)
    with _explained(final):
        # 1. A place.
        temporary = directories.prepare(final)
        try:
            # 2. The state.
            written = state_file.write(temporary / STATE, state)
            # 3. The manifest.
            write_new(temporary / MANIFEST, manifest.encode(told._replace(**written._asdict())))
            sync_folder(temporary)
            # 4. The name.
            directories.publish(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    # 5. Room.
    _retire(final, keep_last, keep_best, warn)
    return final


def load(
    folder: str | os.PathLike[str],
    target: Tree,
    *,
    step: int | None = None,
    fingerprint: Mapping[str, str] | None = None,
    subset: bool = False,
    warn: Warn = warnings.warn,
) -> Loaded:
    """Loads the newest good checkpoint of a run; every byte is verified before the state is returned.

    Args:
        folder: of the run; or of one checkpoint, wherever it was copied to (then that one, and no other).
        target: a tree of the structure, shapes and dtypes to load, such as `stage.init(key)`; its values are
            not used.
        step: which step; None takes the newest that is good.
        fingerprint: of the run that goes on; another one than was saved is refused. None does not compare.
        subset: True lets dicts of the checkpoint have keys which the target has not.
        warn: told of each damaged checkpoint that was passed over, and of another torch, machine or number of
            threads (the run goes on, though perhaps not bit for bit).

    Returns:
        Loaded(state, step, path, manifest, refused).

    Steps:
        1. List the checkpoints, the newest first.
        2. Believe no manifest whose checksum is wrong. A fingerprint that differs ends it here: older ones
           differ too.
        3. Read, and hash each leaf. If one is damaged go back to the next older checkpoint.

    Edge cases: an unreadable file is damage like any other. If no byte is wrong, and the state does not fit
    the target, the target is wrong: this is an error at once, not a reason to take an older one.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if all are damaged (the message says how), or the fingerprint differs (it says in what).
        SerialError: if the state does not fit the target; it names the leaf.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     path = save(run, {"w": torch.ones(2)}, step=7)
        ...     found = load(run, {"w": torch.zeros(2)})
        >>> found.step, found.state
        (7, {'w': tensor([1., 1.])})
    """
    # 1. The newest first.
    found = directories.complete(Path(folder), step)
    if not found:
        raise FileNotFoundError(
            f"checkpoint.load: no checkpoint{'' if step is None else f' of step {step}'} in {folder}"
        )
    refused: list[Refused] = []
    for path in found:
        # 2. and 3. Manifest and state.
        result = _load(path, target, fingerprint, subset)
        if isinstance(result, Loaded):
            for difference in manifest.differences(result.manifest.environment, manifest.environment()):
                if not difference.startswith("python "):
                    warn(f"checkpoint.load: {path.name}: {difference}; the run may not go on bit for bit")
            return result._replace(refused=tuple(refused))
        refused.append(Refused(path, *result))
        warn(f"checkpoint.load: passed over a damaged checkpoint: {_told(refused[-1])}")
    raise ValueError("checkpoint.load: no good checkpoint: " + "; ".join(_told(bad) for bad in refused))


def saved(folder: str | os.PathLike[str]) -> list[Path]:
    """Lists the checkpoints of a run, the oldest first; `step_of(path)` is a checkpoint's step."""
    return [path for path in reversed(directories.complete(Path(folder))) if not path.suffix]


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """Finds the newest checkpoint of a run that looks whole (a quick look: `load` verifies), or None."""
    return next((path for path in directories.complete(Path(folder)) if directories.glance(path)), None)


def best(folder: str | os.PathLike[str]) -> Path | None:
    """Finds the checkpoint with the lowest score (the newest of equals), or None if none has a score."""
    return next(iter(directories.by_score(directories.complete(Path(folder)))), None)


def _load(path: Path, target: Tree, fingerprint: Mapping[str, str] | None, subset: bool) -> Loaded | Damage:
    """One checkpoint, or what is wrong with it."""
    try:
        with open(path / MANIFEST, "rb") as file:
            told = manifest.read(file)
    except (OSError, ValueError) as error:
        return Damage(MANIFEST, (), _reason(error))
    if told.step != step_of(path) >= 0:
        return Damage(MANIFEST, (), f"it is the manifest of step {told.step}")
    _compare(path, told, fingerprint)
    try:
        if (size := (path / STATE).stat().st_size) == told.bytes:
            state, bad = state_file.read(path / STATE, target, told.leaves, size, subset=subset)
            return manifest.changed(bad) if bad else Loaded(state, told.step, path, told, ())
    except OSError as error:
        return _unreadable(told, error)
    except SerialError as error:
        if (damage := _examine(path / STATE, told)) is None:
            raise SerialError(f"checkpoint.load: {path} does not fit the target: {error}") from None
        return damage
    return _examine(path / STATE, told) or Damage(STATE, (), "its length changes while it is read")


def _examine(path: Path, told: Manifest) -> Damage | None:
    """Which leaves are damaged, or None."""
    try:
        with open(path, "rb") as file:
            return manifest.damages(file, os.fstat(file.fileno()).st_size, told)
    except OSError as error:
        return _unreadable(told, error)


def _unreadable(told: Manifest, error: OSError) -> Damage:
    """The state's file is not there, or the disk cannot read it: no leaf can be trusted."""
    return Damage(STATE, tuple(leaf.path for leaf in told.leaves), _reason(error))


def _compare(path: Path, told: Manifest, fingerprint: Mapping[str, str] | None) -> None:
    """Raises if a checkpoint belongs to another run."""
    if fingerprint is None:
        return
    if told.fingerprint is None:
        raise ValueError(
            f"checkpoint.load: {path} has no fingerprint; in Python, fingerprint=None loads it unchecked"
        )
    if lines := manifest.differences(told.fingerprint, fingerprint):
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise ValueError(
            f"checkpoint.load: {path} was saved by another run: {'; '.join(lines[:8])}{more}. Set these back, or "
            "choose another folder"
        )


def _state_step(state: Tree) -> int:
    """`state.step`, which the members of a population share."""
    steps = torch.as_tensor(getattr(state, "step", [])).unique()
    if steps.numel() != 1:
        raise ValueError(f"checkpoint.save: expected one state.step, got {steps.numel()}; pass step=...")
    return int(steps)


def _told(bad: Refused) -> str:
    leaves = ", ".join(bad.leaves[:4]) + (f" and {len(bad.leaves) - 4} more" if len(bad.leaves) > 4 else "")
    return f"{bad.path / bad.file}: {bad.reason}" + (f"; leaves {leaves}" if leaves else "")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _retire(final: Path, keep_last: int | None, keep_best: int, warn: Warn) -> None:
    """Deletes all but the newest, the best and the one just saved; and whatever that one replaced."""
    run = final.parent.parent
    try:
        going = [path for path in directories.complete(run, step_of(final)) if path != final]
        if keep_last is not None:
            paths = [path for path in directories.complete(run) if path not in going]
            kept = {final, *paths[:keep_last], *directories.by_score(paths)[:keep_best]}
            going += [path for path in paths if path not in kept]
        for path in going:
            directories.delete(path)
    except OSError as error:
        warn(
            f"checkpoint.save: saved {final}, but could not delete older ones: {_reason(error)}; delete them by hand"
        )


@contextmanager
def _explained(final: Path) -> Iterator[None]:
    """Says of an error of the disk what was being done, that nothing is lost, and what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "make room there" if full else "make the folder writable, or choose another output folder"
        raise OSError(
            error.errno,
            f"checkpoint.save: could not save {final}: {error.strerror}; {mend}, and save again. What was saved before "
            "is untouched",
        ) from error
