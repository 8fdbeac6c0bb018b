"""Steps of a save: check its arguments, write one file and its manifest, delete what is older."""

from __future__ import annotations

import errno
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from data_pipes.files import sync_folder, write_new
from pure.types import Tree
from stages.checkpoint import directories, manifest, state_file
from stages.checkpoint.damage import reason_of
from stages.checkpoint.directories import step_of
from stages.checkpoint.manifest import MANIFEST, STATE, Manifest

Warn = Callable[[str], Any]
"""Takes a warning, one line."""


Format = Literal["state", "dcp"]
"""Flax's msgpack, or the files of torch.distributed.checkpoint."""


class Writing(NamedTuple):
    """Functions that write the parts of a save.

    Fields:
        write: writes this process's part, and returns its records as JSON.
        gather: (manifest, records of all by rank) -> the manifest with the files.
        file_of: rank -> name of a file that grows while that process writes.
    """

    write: Callable[[], Any]
    gather: Callable[[Manifest, Sequence[Any]], Manifest]
    file_of: Callable[[int], str]


class Plan(NamedTuple):
    """A save whose arguments are checked.

    Fields:
        final: the folder that it makes.
        record: the manifest, without files.
        keep_last, keep_best, warn: as in `checkpoint.save`.
    """

    final: Path
    record: Manifest
    keep_last: int | None
    keep_best: int
    warn: Warn


def plan(
    folder: Path,
    state: Tree,
    *,
    step: int | None = None,
    score: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    fingerprint: Mapping[str, str] | None = None,
    keep_last: int | None = None,
    keep_best: int = 0,
    warn: Warn = warnings.warn,
    processes: int = 1,
) -> Plan:
    """Checks the arguments of a save.

    Args:
        folder, state, step, score, metadata, fingerprint, keep_last, keep_best, warn, processes: as in
            `checkpoint.save`.

    Returns:
        Plan.

    Raises:
        ValueError, TypeError: as `checkpoint.save`.
    """
    step = read_step(state, step)
    if step < 0 or (keep_last is not None and keep_last < 1) or keep_best < 0:
        raise ValueError(
            f"checkpoint.save: expected step >= 0, keep_last >= 1 (or None) and keep_best >= 0, got {step=}, "
            f"{keep_last=}, {keep_best=}"
        )
    record = manifest.make_manifest(step, score, metadata, fingerprint, processes)
    return Plan(directories.folder_of(folder.absolute(), step), record, keep_last, keep_best, warn)


def write_one_file(planned: Plan, state: Tree) -> Path:
    """Writes a state as one file; all older checkpoints are kept until it is on the disk.

    Args:
        planned: from `plan`.
        state: any tree that `pure.serial.serial.to_bytes` takes.

    Returns:
        The folder of the checkpoint.

    Steps:
        1. Make a temporary folder in the same parent, hence on the same file system; remove temporary folders
           that killed saves left.
        2. Write, hash and fsync the state.
        3. Write the manifest, with sha256 and length of the file and of each leaf; fsync it and the folder.
        4. Rename the folder to its final name; fsync the parent. An older checkpoint of the same step is
           renamed first.
        5. Only now delete old checkpoints and the replaced one.

    Raises:
        OSError: if writing fails; earlier checkpoints are untouched.
        SerialError: if a leaf cannot be written.
    """
    with explain_errors(planned.final):
        # 1. Temporary folder.
        temporary = directories.make_temporary(planned.final)
        try:
            # 2. State.
            written = state_file.write(temporary / STATE, state)
            # 3. Manifest.
            # 4. Final name.
            publish(planned, temporary, planned.record._replace(**written._asdict()))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    # 5. Old checkpoints.
    delete_old(planned)
    return planned.final


def publish(planned: Plan, temporary: Path, record: Manifest) -> None:
    """Writes the manifest beside files that are on the disk, and renames the folder to its final name.

    Args:
        planned: from `plan`.
        temporary: the folder.
        record: the manifest, with its files.

    Raises:
        OSError: if the disk refuses.
    """
    write_new(temporary / MANIFEST, manifest.encode(record))
    sync_folder(temporary)
    directories.publish(temporary, planned.final)


def delete_old(planned: Plan) -> None:
    """Deletes the checkpoint that a new one replaced, and all but the newest, the best and the new one."""
    final, run = planned.final, planned.final.parent.parent
    try:
        old = [path for path in directories.list_complete(run, step_of(final)) if path != final]
        if planned.keep_last is not None:
            paths = [path for path in directories.list_complete(run) if path not in old]
            best = directories.sort_by_score(paths)[: planned.keep_best]
            kept = {final, *paths[: planned.keep_last], *best}
            old += [path for path in paths if path not in kept]
        for path in old:
            directories.delete(path)
    except OSError as error:
        planned.warn(
            f"checkpoint.save: saved {final}, but could not delete older ones: {reason_of(error)}; delete "
            "them by hand"
        )


@contextmanager
def explain_errors(final: Path) -> Iterator[None]:
    """Adds to an OSError the checkpoint that was being saved, that nothing is lost, and the fix.

    Raises:
        OSError: with the same errno.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "make room there" if is_full else "make the folder writable, or choose another output folder"
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and final.parent.is_dir():
            fix = "another process saves there too: give group= on all of them, or one folder to each"
        if error.errno in (errno.ECANCELED, errno.ETIMEDOUT):
            fix = "look for that process's own message"
        raise OSError(
            error.errno,
            f"checkpoint.save: could not save {final}: {error.strerror}; {fix}, and save again. What was "
            "saved before is untouched",
        ) from error


def read_step(state: Tree, step: int | None = None) -> int:
    """Returns the step of a save: the one given, or `state.step`, which the members of a population share.

    Raises:
        ValueError: if there is none.
    """
    if step is not None:
        return step
    steps = torch.as_tensor(getattr(state, "step", [])).unique()
    if steps.numel() != 1:
        raise ValueError(f"checkpoint.save: expected one state.step, got {steps.numel()}; pass step=...")
    return int(steps)
