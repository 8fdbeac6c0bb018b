"""`intro2llm reward`: a reward model from preference pairs."""

from __future__ import annotations

from collections.abc import Sequence

from stages.cli import tune
from stages.run.options.tuning import RewardOptions


def main(arguments: Sequence[str]) -> int:
    """Parses the flags and trains."""
    return tune.main(RewardOptions, "reward", arguments)
