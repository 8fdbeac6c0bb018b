"""`intro2llm ppo`: proximal policy optimization."""

from __future__ import annotations

from collections.abc import Sequence

from stages.cli import tune
from stages.run.options.tuning import PPOOptions


def main(arguments: Sequence[str]) -> int:
    """Parses the flags and trains."""
    return tune.main(PPOOptions, "ppo", arguments)
