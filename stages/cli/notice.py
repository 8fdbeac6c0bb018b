"""Lines for a user who waits at a terminal, before torch is imported, which takes seconds."""

from __future__ import annotations

import sys


def say_waiting(line: str) -> None:
    """Prints a line to stderr at once, if it is a terminal; the output of scripts stays as it is.

    Args:
        line: what the subcommand is doing.
    """
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
