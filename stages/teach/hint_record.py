"""Hints that a learner took, `.intro2llm/hints.json`: level, step and time of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes.files import read_json, write_json, writing
from stages.teach.record import FOLDER

HINTS = f"{FOLDER}/hints.json"


class Given(NamedTuple):
    """A hint that was given.

    Fields:
        level: from 1 to 6.
        step: number of the step; 0 for the formula and the body.
        time: when, in ISO format, UTC.
    """

    level: int
    step: int
    time: str


def read_hints(folder: Path) -> dict[str, tuple[Given, ...]]:
    """Reads the hints that were taken in an edition, by exercise; without a file there are none.

    Raises:
        ValueError: for a damaged file.
    """
    path = folder / HINTS
    try:
        rows = read_json(path)
        return {name: tuple(_read_one(**each) for each in row) for name, row in rows.items()}
    except FileNotFoundError:
        return {}
    except (TypeError, AttributeError):
        raise ValueError(f"{path}: expected a list of level, step and time for each exercise") from None


def write_hints(folder: Path, hints: Mapping[str, Sequence[Given]]) -> None:
    """Writes the hints that were taken in an edition atomically.

    Raises:
        OSError: if the file cannot be written.
    """
    write_json(folder / HINTS, {name: [each._asdict() for each in row] for name, row in hints.items()})


def back_up_hints(folder: Path) -> str:
    """Renames a damaged file to a name that no file has, and returns that, relative to the edition."""
    number = 1
    while (folder / f"{HINTS}.damaged-{number}").exists():
        number += 1
    backup = f"{HINTS}.damaged-{number}"
    with writing(folder / backup):
        os.replace(folder / HINTS, folder / backup)
    return backup


def _read_one(level: Any, step: Any, time: Any) -> Given:
    """A hint in JSON; a TypeError if it is none."""
    if not (isinstance(level, int) and isinstance(step, int) and isinstance(time, str)):
        raise TypeError
    return Given(level, step, time)
