"""Handle rows that cannot be read: stop at the first, or skip them and list them in a file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import NoReturn

from data_pipes.files import writing
from data_pipes.types import BadRow, OnBad


def handler(mode: str, path: Path | None) -> OnBad:
    """Returns the bad-row handler selected by --on_bad.

    Args:
        mode: "stop" raises at the first bad row; "skip" lists the row and continues.
        path: JSONL file that the rows are appended to; None lists nothing.

    Returns:
        BadRow -> None, for readers of rows.
    """
    return partial(_handle, mode=mode, path=path)


def refuse(bad: BadRow, way_out: str = "") -> NoReturn:
    """Raises at a bad row; the message names flags in place of Python arguments.

    Args:
        bad: the row's name (file and line), and the reason.
        way_out: another fix for the user, which ends the message.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{bad.name}: {name_flags(bad.reason)}{way_out}")


def read(path: Path) -> list[BadRow]:
    """Reads the file of bad rows; an empty list if there is no file."""
    if not path.exists():
        return []
    return [BadRow(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def name_flags(reason: str) -> str:
    """Replaces the Python arguments in a reason by the flags of the command line.

    Example:
        >>> name_flags("not utf-8; pass encoding=")
        'not utf-8; name its --encoding'
    """
    reason = reason.replace("pass field= the column", "name by --field the column")
    return reason.replace("pass encoding=", "name its --encoding")


def _handle(bad: BadRow, *, mode: str, path: Path | None) -> None:
    """Refuses or lists one row."""
    if mode == "stop":
        refuse(bad, "; or skip such rows with --on_bad skip")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(bad._asdict()) + "\n")
