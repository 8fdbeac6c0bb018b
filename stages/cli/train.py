"""The training subcommands: `intro2llm pretrain`, `sft` and every stage after it."""

from __future__ import annotations

from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import TuningOptions
from stages.run.train import train

INTERRUPTED = 128
"""Exit code of an interrupted run, plus the signal's number, as in shells: 143 after SIGTERM."""


def run(options: PretrainOptions | TuningOptions) -> int:
    """Trains, or resumes.

    Returns:
        The exit code: 0, or of an interrupted run, whose state is saved, 128 and the signal's number.
    """
    outcome = train(options)
    return INTERRUPTED + outcome.signal if outcome.signal else 0
