"""Small JSON files, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.run.writing import writing


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes an object; a crash leaves the old file or the new one.

    Raises:
        OSError: if the disk refuses; the message has the path.
    """
    unfinished = path.with_name(f".{path.name}.partial")
    with writing(path, "make room there, or choose another folder"):
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(fields, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)


def read(path: Path) -> dict[str, Any]:
    """Reads an object; a byte-order mark before it is allowed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a JSON object in UTF-8; the message has the path, and the line if that can be told.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, or too deep
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(found).__name__}")
    return found
