"""Name the file that a write failed at: the system's error for a full disk says none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path, then: str = "make room there, and run the same command again") -> Iterator[None]:
    """Gives errors of the body the file's name.

    Args:
        path: what the body writes.
        then: what a person can do.

    Raises:
        OSError: with the same number, the path and `then`.

    Example:
        >>> with writing(Path("a.txt")):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        OSError: [Errno 28] cannot write a.txt: No space left on device; make room there, and run the same command again
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}; {then}") from error
