"""Hints that a learner took, `.intro2llm/hints.json`: level, step and time of each."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipes.files import read_json, write_json, writing
from stages.teach import messages
from stages.teach.messages import Sentence
from stages.teach.record import FOLDER

HINTS = f"{FOLDER}/hints.json"

RESET = 0
"""Level of the entry of a `reset`, after which the hints start again."""


class Given(NamedTuple):
    """A hint that was given.

    Fields:
        level: from 1 to 6; RESET is no hint.
        step: number of the step; 0 for the formula, the body and RESET.
        time: when, in ISO format, UTC.
    """

    level: int
    step: int
    time: str


def read_hints(folder: Path) -> dict[str, tuple[Given, ...]]:
    """Reads the hints that were taken in an edition, by exercise; without a file there are none.

    Raises:
        ValueError: for a damaged file; its argument is a `Sentence`.
    """
    path = folder / HINTS
    reason: object = Sentence(messages.NO_HINTS, {})
    try:
        rows = read_json(path)
        return {name: tuple(_read_one(**each) for each in row) for name, row in rows.items()}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
    except (TypeError, AttributeError):
        pass
    raise ValueError(Sentence(messages.DAMAGED_HINTS, {"path": path, "reason": reason}))


def count_hints(folder: Path) -> dict[str, int]:
    """Counts the hints that were taken in an edition, by exercise; one that was given twice counts once.

    Raises:
        ValueError: for a damaged record of hints.
    """
    counts = {name: count_given(row) for name, row in read_hints(folder).items()}
    return {name: count for name, count in counts.items() if count}


def count_given(given: Sequence[Given]) -> int:
    """Counts different hints.

    Example:
        >>> count_given([Given(1, 0, ""), Given(2, 1, ""), Given(RESET, 0, ""), Given(1, 0, "")])
        2
    """
    return len({(each.level, each.step) for each in given if each.level != RESET})


def select_current(given: Sequence[Given]) -> tuple[Given, ...]:
    """Selects the hints since the last reset.

    Example:
        >>> select_current([Given(1, 0, "a"), Given(RESET, 0, "b"), Given(1, 0, "c")])
        (Given(level=1, step=0, time='c'),)
    """
    resets = [index for index, each in enumerate(given) if each.level == RESET]
    return tuple(given[resets[-1] + 1 if resets else 0 :])


def record_hint(folder: Path, name: str, level: int, step: int) -> None:
    """Adds a hint on an exercise, or a RESET, to those that were taken in an edition.

    Raises:
        ValueError: for a damaged file.
        OSError: if the file cannot be written.
    """
    hints = read_hints(folder)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    write_hints(folder, {**hints, name: (*hints.get(name, ()), Given(level, step, now))})


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
