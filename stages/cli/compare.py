"""`intro2llm compare`: what changed from one evaluation to another, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from stages.cli.flags import parse


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compares two folders of `intro2llm evaluate`: the same questions, asked of two models."""

    first: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FIRST")]
    """The --output_dir of an evaluation."""
    second: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SECOND")]
    """That of another one; the difference is how much higher its scores are."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, compares, prints the table."""
    options = parse(CompareOptions, "compare", arguments)
    from stages.evaluate import compare, record

    first, second = (record.read(folder) for folder in (options.first, options.second))
    print(compare.table(compare.compare(first, second)))
    return 0
