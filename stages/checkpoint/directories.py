"""The folders of a run's checkpoints: which are there, how one gets its name, and how one goes.

    RUN/checkpoints/step-00000100          complete, and on the disk before it got this name
    RUN/checkpoints/step-00000100.tmp      being written, or what a killed save left
    RUN/checkpoints/step-00000100.old0     complete; stepping aside for a new one of the same step
    RUN/checkpoints/step-00000100.del      being deleted

Every change of a name is one rename, which the file system does whole or not at all.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path

from data_pipes.files import make_folder, publish_folder
from stages.checkpoint import manifest
from stages.checkpoint.manifest import MANIFEST, STATE, Manifest

FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8,})(\.old\d+)?")


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies.

    Example:
        >>> folder_of(Path("runs/a"), 100).as_posix()
        'runs/a/checkpoints/step-00000100'
    """
    return run / FOLDER / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step in a checkpoint's name; -1 if it is no such name.

    Example:
        >>> step_of(Path("step-00000100.old0")), step_of(Path("step-00000100.tmp"))
        (100, -1)
    """
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def complete(folder: Path, step: int | None = None) -> list[Path]:
    """Lists checkpoints, the newest first; one that stepped aside comes after its replacement.

    Args:
        folder: of a run; or of one checkpoint, which is then the only one.
        step: only this step; None all.
    """
    if (step_of(folder) >= 0 and folder.is_dir()) or (folder / MANIFEST).is_file():
        return [folder]
    root = folder / FOLDER
    paths = [root / name for name in (os.listdir(root) if root.is_dir() else [])]
    found = [(number, path.name, path) for path in paths if (number := step_of(path)) >= 0]
    kept = [entry for entry in found if step is None or entry[0] == step]
    return [path for _, _, path in sorted(kept, key=lambda entry: (-entry[0], entry[1]))]


def glance(folder: Path) -> Manifest | None:
    """Reads a checkpoint's manifest, if it is good and the state's file has the right length; else None."""
    try:
        with open(folder / MANIFEST, "rb") as file:
            told = manifest.read(file)
        return told if (folder / STATE).stat().st_size == told.bytes else None
    except (OSError, ValueError):
        return None


def by_score(folders: list[Path]) -> list[Path]:
    """Sorts checkpoints by their score, the lowest first; those without a score, or with NaN, are left
    out."""
    told = {folder: glance(folder) for folder in folders}
    scores = {folder: math.nan if m is None or m.score is None else m.score for folder, m in told.items()}
    return sorted(
        (folder for folder in folders if not math.isnan(scores[folder])), key=lambda folder: scores[folder]
    )


def prepare(final: Path) -> Path:
    """Makes an empty temporary folder beside `final`, and removes what killed saves and deletions left.

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
    """Gives a complete folder its name; one that has it already steps aside (delete it after this).

    Raises:
        OSError: if the file system refuses; every complete checkpoint then still has a name that `complete`
            lists.
    """
    names = (final.with_name(f"{final.name}.old{i}") for i in range(100))
    publish_folder(temporary, final, aside=next(path for path in names if not path.exists()))


def delete(path: Path) -> None:
    """Takes a checkpoint's name away at once, then removes it; killed in between, the next save removes the
    rest.

    Raises:
        OSError: if the file system refuses.
    """
    condemned = path.with_name(path.name.split(".")[0] + ".del")
    shutil.rmtree(condemned, ignore_errors=True)
    os.rename(path, condemned)
    shutil.rmtree(condemned)
