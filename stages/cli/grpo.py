"""`intro2llm grpo`: group relative policy optimization."""

from __future__ import annotations

from collections.abc import Sequence

from stages.cli import tune
from stages.run.options.tuning import GRPOOptions


def main(arguments: Sequence[str]) -> int:
    """Parses the flags and trains."""
    return tune.main(GRPOOptions, "grpo", arguments)
