"""`intro2llm import`: a published model in: a GGUF file, a hub's name or a folder, as a folder of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.cli import convert


@dataclass(frozen=True, kw_only=True)
class ImportOptions(convert.ConvertOptions):
    """Brings a published model in: writes it as a folder in Hugging Face's layout, which every other command
    takes."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, reads and writes."""
    return convert.main(ImportOptions, "import", arguments)
