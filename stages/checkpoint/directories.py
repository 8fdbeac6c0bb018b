"""The folders of a run's checkpoints: list, make, publish and delete them.

    RUN/checkpoints/step-00000100          complete, and on the disk before it got this name
    RUN/checkpoints/step-00000100.tmp      being written, or left by a killed save
    RUN/checkpoints/step-00000100.old0     complete, being replaced by a new one of the same step
    RUN/checkpoints/step-00000100.del      being deleted

Every change of a name is one rename, which is atomic.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path

from data_pipes.files import make_folder, publish_folder
from stages.checkpoint import manifest
from stages.checkpoint.manifest import MANIFEST, Manifest

FOLDER = "checkpoints"
"""Folder of the checkpoints, in the run's folder."""
_NAME = re.compile(r"step-(\d{8,})(\.old\d+)?")


def folder_of(run: Path, step: int) -> Path:
    """Returns the folder of a step's checkpoint.

    Example:
        >>> folder_of(Path("runs/a"), 100).as_posix()
        'runs/a/checkpoints/step-00000100'
    """
    return run / FOLDER / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Reads the step in a checkpoint's name; -1 for any other name.

    Example:
        >>> step_of(Path("step-00000100.old0")), step_of(Path("step-00000100.tmp"))
        (100, -1)
    """
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def list_complete(folder: Path, step: int | None = None) -> list[Path]:
    """Lists complete checkpoints, the newest first; a replaced one comes after its replacement.

    Args:
        folder: a run's folder, or one checkpoint's, which is then the only one listed.
        step: lists only this step; None lists all.
    """
    if (step_of(folder) >= 0 and folder.is_dir()) or (folder / MANIFEST).is_file():
        return [folder]
    root = folder / FOLDER
    paths = [root / name for name in (os.listdir(root) if root.is_dir() else [])]
    named = [path for path in paths if step_of(path) >= 0 and step in (None, step_of(path))]
    return sorted(named, key=lambda path: (-step_of(path), path.name))


def read_manifest(folder: Path) -> Manifest | None:
    """Reads a checkpoint's manifest, if it is valid and its files have the right lengths; else None."""
    try:
        with open(folder / MANIFEST, "rb") as file:
            record = manifest.read(file)
        files = manifest.files_of(record)
        return record if all((folder / x.file).stat().st_size == x.bytes for x in files) else None
    except (OSError, ValueError):
        return None


def sort_by_score(folders: list[Path]) -> list[Path]:
    """Sorts checkpoints by their score, the lowest first; leaves out those without a score, or with NaN."""
    scores = {}
    for folder in folders:
        record = read_manifest(folder)
        if record is not None and record.score is not None and not math.isnan(record.score):
            scores[folder] = record.score
    return sorted(scores, key=lambda folder: scores[folder])


def make_temporary(final: Path) -> Path:
    """Makes an empty temporary folder for `final`, and removes what killed saves and deletions left.

    Raises:
        OSError: if the folder, or one of its parents, cannot be made.
    """
    root = final.parent
    make_folder(root)
    for name in os.listdir(root):
        if name.endswith((".tmp", ".del")) and step_of(Path(name[:-4])) >= 0:
            shutil.rmtree(root / name, ignore_errors=True)
    temporary = final.with_name(final.name + ".tmp")
    os.mkdir(temporary)
    return temporary


def publish(temporary: Path, final: Path) -> None:
    """Renames a complete folder to its final name; an older folder of that name is renamed to NAME.old<i>.

    The caller deletes the older one afterwards.

    Raises:
        OSError: if the file system refuses; `list_complete` then still lists every complete checkpoint.
    """
    names = (final.with_name(f"{final.name}.old{i}") for i in range(100))
    publish_folder(temporary, final, aside=next(path for path in names if not path.exists()))


def delete(path: Path) -> None:
    """Renames a checkpoint, then removes it.

    If the process is killed in between, the next save removes the rest.

    Raises:
        OSError: if the file system refuses.
    """
    renamed = path.with_name(path.name.split(".")[0] + ".del")
    shutil.rmtree(renamed, ignore_errors=True)
    os.rename(path, renamed)
    shutil.rmtree(renamed)
