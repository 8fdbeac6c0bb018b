"""Save and load checkpoints: a state is saved atomically, and verified on load.

    RUN/checkpoints/step-00000100/{state.msgpack, manifest.json}

`state.msgpack` is in Flax's format, so that a run can continue in JAX. The manifest has a checksum of every
leaf and describes the run. One run at a time saves into a folder (`lock`); `background.make_saver` saves
while the training continues.

Several processes that all hold the state write the same files: the first one does. If each holds rows of it
(`pure.parallel.rows`), each writes its own piece, and any number of processes reads them:

    RUN/checkpoints/step-00000100/state-00001-of-00004.msgpack    rows of process 0, and whole leaves
                                  state-00002-of-00004.msgpack    rows of process 1
                                  ...
                                  manifest.json                   every leaf of every piece

Each piece is Flax's msgpack too; `join.to_msgpack` makes the one file of them. While they are written the
folder is step-00000100.tmp, with a file of records and a lock beside each piece (`pieces`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pure.parallel.group import Group, group_of
from pure.types import Tree
from stages.checkpoint import dcp, directories, manifest
from stages.checkpoint.agreement import agree, check_replicas, is_first, size_of
from stages.checkpoint.damage import Damage
from stages.checkpoint.directories import step_of as step_of
from stages.checkpoint.groups import check_groups
from stages.checkpoint.loading import Loaded, Skipped, load_one
from stages.checkpoint.saving import Format, Warn, plan, write_one_file
from stages.checkpoint.together import group_of_state, has_parts, save_parts


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
    group: Any = None,
    processes: int = 1,
    format: Format = "state",
) -> Path:
    """Saves a state; when this returns, it is on the disk. Older checkpoints are kept until then.

    The steps are those of `saving.write_one_file`; of a state in rows, those of `together.begin`.

    A power failure, a full disk or a killed process loses no checkpoint: once there is a complete one under
    its final name, there is one at every moment, also while this function runs.

    Args:
        folder: the run's folder, made if it is missing. The checkpoint goes to
            folder/checkpoints/step-NNNNNNNN.
        state: any tree that `pure.serial.serial.to_bytes` takes, such as a TrainState.
        step: >= 0; by default `int(state.step)`.
        score: ranks checkpoints for `keep_best` and `best`, lower is better (negate an accuracy); None or NaN
            is never best.
        metadata: JSON that `load` returns.
        fingerprint: from `fingerprint.fingerprint(stage, ...)`; `load` refuses another one.
        keep_last: number of newest checkpoints to keep; None keeps all.
        keep_best: number of checkpoints with the lowest scores to keep as well; they may be among the newest.
        warn: is called with a line if an old checkpoint could not be deleted; the save has succeeded
            nevertheless.
        group: the processes that hold this state, all of which make this call; the first writes and warns. A
            DeviceMesh with one dimension, a ProcessGroup or a Group.
            Of a state that is cut into rows each writes its own; None is then the group of its mesh, else
            this process alone.
        processes: number of processes that compute the state, for the manifest; with `group`, its size.
        format: "state" is Flax's msgpack; "dcp" the files of torch.distributed.checkpoint, which its `load`
            and other tools read, beside our manifest. `load` finds out.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: if writing fails (a full disk, missing permission); earlier checkpoints are untouched. Every
            error is raised on all processes of the group.
        ValueError: if the step is unknown or negative, keep_last is below 1, or keep_best is negative; if
            leaves that are not cut differ between processes; if another group of processes saves this
            checkpoint.
        TypeError: if the metadata is not JSON.
        SerialError: if a leaf cannot be written.
    """
    options: dict[str, Any] = {
        "step": step,
        "score": score,
        "metadata": metadata,
        "fingerprint": fingerprint,
        "keep_last": keep_last,
        "keep_best": keep_best,
        "warn": warn,
    }
    group = None if group is None else group_of("checkpoint.save", group)
    in_parts = has_parts(state, format)
    if group is not None or in_parts:
        savers = group_of_state(group, state)
        check_replicas(savers, state)
        check_groups(savers, folder, state, step)
    if in_parts:
        return save_parts(group, folder, state, format, options)
    if group is not None:
        return _save_by_first(group, partial(save, folder, state, processes=group.size, **options))
    return write_one_file(plan(Path(folder), state, processes=processes, **options), state)


def _save_by_first(group: Group, save_alone: Callable[[], Path]) -> Path:
    """Saves on the first process, and agrees on the outcome."""
    path, error = None, None
    if is_first(group):
        try:
            path = save_alone()
        except Exception as raised:
            error = raised
    return agree(group, error, path)[0]


def load(
    folder: str | os.PathLike[str],
    target: Tree,
    *,
    step: int | None = None,
    fingerprint: Mapping[str, str] | None = None,
    subset: bool = False,
    warn: Warn = warnings.warn,
    group: Any = None,
) -> Loaded:
    """Loads the newest undamaged checkpoint of a run; every byte is verified before the state is returned.

    Args:
        folder: the run's folder; or the folder of one checkpoint, or of a copy of it: then only that one is
            loaded.
        target: a tree of the structure, shapes and dtypes to load, such as `stage.init(key)`; its values are
            not used.
        step: the checkpoint's step; None takes the newest undamaged checkpoint.
        fingerprint: fingerprint of the run that resumes; a checkpoint with another one is refused. None does
            not compare.
        subset: True lets dicts of the checkpoint have keys that the target lacks.
        warn: is called with a line for each damaged checkpoint that is skipped, and if torch, the machine or
            the number of threads or processes differs (the run resumes, though perhaps not bit for bit).
        group: the processes that load, all of which make this call: the first chooses the checkpoint, a
            damaged one is skipped by all, and the first `warn`s. As in `save`; None is this process alone.

    Returns:
        Loaded(state, step, path, manifest, skipped).

    Steps:
        1. List the checkpoints, the newest first.
        2. Verify the manifest's own checksum. Raise if its fingerprint differs, since older checkpoints of
           the run have the same one.
        3. Read and hash each leaf. If one is damaged, take the next older checkpoint.

    Edge cases: an unreadable file is damage like any other. If no byte is wrong and the state does not fit
    the target, the target is wrong: this raises, and no older checkpoint is tried.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if all are damaged (the message has the damage); if the fingerprint differs (it has the
            differences), is missing, or was written by a version in which functions have other names.
        SerialError: if the state does not fit the target; it names the leaf.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     path = save(run, {"w": torch.ones(2)}, step=7)
        ...     loaded = load(run, {"w": torch.zeros(2)})
        >>> loaded.step, loaded.state
        (7, {'w': tensor([1., 1.])})
    """
    group = None if group is None else group_of("checkpoint.load", group)
    # 1. The newest first.
    paths = _list_together(Path(folder), step, group)
    skipped: list[Skipped] = []
    for path in paths:
        # 2. and 3. Manifest and state.
        result = _load_together(path, target, fingerprint, subset, group)
        if isinstance(result, Loaded):
            if is_first(group):
                _warn_of_environment(result, group, warn)
            return result._replace(skipped=tuple(skipped))
        skipped.append(Skipped(path, *result))
        if is_first(group):
            warn(f"checkpoint.load: skipped a damaged checkpoint: {_describe(skipped[-1])}")
    damage = "; ".join(map(_describe, skipped))
    raise ValueError(
        f"checkpoint.load: no undamaged checkpoint: {damage}; restore one from a copy, or choose another "
        "folder"
    )


def list_saved(folder: str | os.PathLike[str]) -> list[Path]:
    """Lists the checkpoints of a run, the oldest first; `step_of(path)` is a checkpoint's step."""
    paths = directories.list_complete(Path(folder))
    return [path for path in reversed(paths) if not path.suffix]  # without step-*.old<i>


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """Finds the newest checkpoint of a run with a valid manifest, or None; only `load` verifies the state."""
    paths = directories.list_complete(Path(folder))
    return next((path for path in paths if directories.read_manifest(path)), None)


def best(folder: str | os.PathLike[str]) -> Path | None:
    """Finds the checkpoint with the lowest score (the newest of equals), or None if none has a score."""
    return next(iter(directories.sort_by_score(directories.list_complete(Path(folder)))), None)


def _list_together(folder: Path, step: int | None, group: Group | None) -> list[Path]:
    """Lists the checkpoints that the first process sees, the newest first; all processes must see them."""
    paths = agree(group, None, directories.list_complete(folder, step))[0]
    if not paths and (folder / dcp.METADATA).is_file():
        raise ValueError(
            f"checkpoint.load: {folder}: a folder of torch.distributed.checkpoint without manifest.json, "
            "whose bytes cannot be verified; load it with torch.distributed.checkpoint.load, and save the "
            "state here"
        )
    if not paths:
        of_step = "" if step is None else f" of step {step}"
        raise FileNotFoundError(
            f"checkpoint.load: no checkpoint{of_step} in {folder}; expected a run's folder, with "
            f"{directories.FOLDER}/step-*"
        )
    error = None
    if group is not None and not is_first(group) and not paths[0].is_dir():
        error = ValueError(
            f"checkpoint.load: process {group.rank} does not see {paths[0]}, which the first process sees; "
            "choose a folder on a file system that all share"
        )
    agree(group, error)
    return paths


def _load_together(
    path: Path, target: Tree, fingerprint: Mapping[str, str] | None, subset: bool, group: Group | None
) -> Loaded | Damage:
    """Loads one checkpoint on all processes; returns its damage if any process finds some."""
    result, error = None, None
    try:
        result = load_one(path, target, fingerprint, subset, group)
    except Exception as raised:
        error = raised
    damages = agree(group, error, result if isinstance(result, Damage) else None)
    first = next((damage for damage in damages if damage is not None), None)
    if first is None:
        return result  # type: ignore[return-value]
    leaves = dict.fromkeys(leaf for damage in damages if damage is not None for leaf in damage.leaves)
    return first._replace(leaves=tuple(leaves))


def _warn_of_environment(loaded: Loaded, group: Group | None, warn: Warn) -> None:
    """Warns of what differs from the machine and the processes that saved a checkpoint."""
    count = "the number of processes"
    was = dict(loaded.manifest.environment)
    was[count] = was.pop("processes", 1)
    for difference in manifest.differences(was, manifest.environment() | {count: size_of(group)}):
        if not difference.startswith("python "):
            warn(f"checkpoint.load: {loaded.path.name}: {difference}; the run may not resume bit for bit")


def _describe(damaged: Skipped) -> str:
    """A damaged checkpoint in one line: file, reason, and up to four leaves."""
    text = f"{damaged.path / damaged.file}: {damaged.reason}"
    if damaged.leaves:
        text += f"; leaves {', '.join(damaged.leaves[:4])}"
    return f"{text} and {len(damaged.leaves) - 4} more" if len(damaged.leaves) > 4 else text
