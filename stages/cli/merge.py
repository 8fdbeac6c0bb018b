"""`intro2llm merge`: adapters merged into their base, as a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.cli import convert


@dataclass(frozen=True, kw_only=True)
class MergeOptions(convert.ConvertOptions):
    """Works adapters into the model that they were trained on, and writes the whole."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, reads and writes."""
    return convert.main(MergeOptions, "merge", arguments, adapters=True)
