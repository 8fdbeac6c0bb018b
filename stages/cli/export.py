"""`intro2llm export`: a model out, in Hugging Face's layout, in the type of weights that one likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.cli import convert


@dataclass(frozen=True, kw_only=True)
class ExportOptions(convert.ConvertOptions):
    """Writes a model as a folder in Hugging Face's layout, which transformers loads."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, reads and writes."""
    return convert.main(ExportOptions, "export", arguments)
