"""Lock a run's folder for one process at a time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = ".lock"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Makes the folder, and locks it for this process while the block runs.

    Two processes that train in the same folder would overwrite each other's files. The lock ends with the
    process, however it ends, so there is never one to remove by hand.

    Edge cases: if the block raises and has written no file, the folders that were made are removed.

    Raises:
        OSError: if the folder cannot be made or written.
        ValueError: if another process holds it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]  # the innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("a", encoding="utf-8")
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise OSError(
            error.errno, f"cannot write into {folder}: {reason}; choose another --output_dir"
        ) from error
    with file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not POSIX
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ValueError(
                    f"{folder} is in use by another process; wait for it, or choose another folder"
                ) from None
            # Any other error means that the file system has no locks: the block runs without one.
        try:
            yield
        except BaseException:
            _remove_unused(folder, made)
            raise


def _remove_unused(folder: Path, made: list[Path]) -> None:
    """Removes the folders that were made, the innermost first, if they hold no file but the lock."""
    if folder in made and all(path.is_dir() or path == folder / NAME for path in folder.rglob("*")):
        with suppress(OSError):  # another process writes there, or the file system refuses
            shutil.rmtree(folder)
            for path in made[1:]:
                path.rmdir()
