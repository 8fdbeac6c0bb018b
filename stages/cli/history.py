"""Lines that a user typed in earlier sessions of `intro2llm chat`, in a file of plain text.

The file is `intro2llm/chat_history` in the user's folder of states (XDG Base Directory Specification, 0.8).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

KEPT = 1000
"""Lines that a session starts with; a file of more than twice as many is cut to these."""


def history_path(environment: Mapping[str, str]) -> Path:
    """Returns the path of the file; a relative $XDG_STATE_HOME is ignored, as the specification says.

    Example:
        >>> str(history_path({"XDG_STATE_HOME": "/state"}))
        '/state/intro2llm/chat_history'
    """
    state = environment.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return folder / "intro2llm" / "chat_history"


def read_history(path: Path) -> list[str]:
    """Reads the newest lines, oldest first; a file that is not there has none.

    Args:
        path: of the file, which is cut if it is long.

    Raises:
        OSError: if it cannot be read, or cut.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf8", errors="replace").split("\n")[:-1]
    if len(lines) > 2 * KEPT:
        path.write_text("".join(f"{line}\n" for line in lines[-KEPT:]), encoding="utf8")
    return lines[-KEPT:]


def append_line(path: Path, line: str) -> None:
    """Adds a line at the end of the file, which only the user may read.

    Args:
        path: of the file; it and its folder are made if need be.
        line: without a line break.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with open(number, "a", encoding="utf8", errors="replace") as file:
        file.write(f"{line}\n")
