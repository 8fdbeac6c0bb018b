"""`intro2llm dpo`: direct preference optimization."""

from __future__ import annotations

from collections.abc import Sequence

from stages.cli import tune
from stages.run.options.tuning import DPOOptions


def main(arguments: Sequence[str]) -> int:
    """Parses the flags and trains."""
    return tune.main(DPOOptions, "dpo", arguments)
