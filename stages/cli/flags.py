"""Flags from dataclasses: each field is a flag, the text below it is its help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import tyro

Options = TypeVar("Options")


def parse(kind: type[Options], name: str, arguments: Sequence[str]) -> Options:
    """Reads the flags of a subcommand; `--batch_size` and `--batch-size` are the same.

    Args:
        kind: a dataclass.
        name: of the subcommand.
        arguments: what follows it.

    Raises:
        SystemExit: with 0 after --help, with 2 for a flag that is unknown or has a wrong value.
    """
    return tyro.cli(kind, prog=f"intro2llm {name}", args=list(arguments), use_underscores=True)
