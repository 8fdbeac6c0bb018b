"""The one place of the stages that touches the world: the loop, checkpoints, logs, and finished models."""

from stages.run.loop import Outcome, RunOptions, run

__all__ = ["Outcome", "RunOptions", "run"]
