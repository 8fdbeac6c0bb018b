"""`intro2llm sft`: supervised fine-tuning on conversations."""

from __future__ import annotations

from collections.abc import Sequence

from stages.cli import tune
from stages.run.options.tuning import SFTOptions


def main(arguments: Sequence[str]) -> int:
    """Parses the flags and trains."""
    return tune.main(SFTOptions, "sft", arguments)
