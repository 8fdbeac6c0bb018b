"""`intro2llm compare`: what changed from one evaluation to another, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from stages.cli.flags import parse


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compares two folders of `intro2llm evaluate`: the same questions, asked of two models."""

    folders: tyro.conf.Positional[tuple[str, str]]
    """The --output_dir of the first evaluation, and that of the second."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, compares, prints the table."""
    options = parse(CompareOptions, "compare", arguments)
    from stages.evaluate import compare, record

    first, second = (record.read(folder) for folder in options.folders)
    print(compare.table(compare.compare(first, second)))
    return 0
