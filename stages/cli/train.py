"""The training subcommands: train, then write the run's page and its model card."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.run import train
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import TuningOptions

if TYPE_CHECKING:
    from stages.run.processes import Processes

PAGE = "INTRO2LLM_REPORT"
"""Environment variable: 0 writes no page at the end of a run."""


def run(options: PretrainOptions | TuningOptions, processes: Processes | None = None) -> int:
    """Trains, or resumes, and writes the model card and report.html; the page of a run that diverged too.

    Args:
        options: the flags.
        processes: those that train together; None is one alone.

    Returns:
        The exit code: 0, or 128 plus the signal's number for an interrupted run, whose state is saved.

    Raises:
        FloatingPointError: as `stages.run.loop.run`, once the page is written.
    """
    is_first = processes is None or processes.first
    try:
        outcome = train.train(options, processes=processes)
    except FloatingPointError:
        if is_first:
            write_page(options.output_dir, print)
        raise
    if is_first:
        if outcome.final_model:
            write_card(options.output_dir, print)
        write_page(options.output_dir, print)
    return train.INTERRUPTED + outcome.signal if outcome.signal else 0


def write_card(folder: str | Path, say: Callable[[str], Any]) -> None:
    """Writes the model card of a run that is complete.

    Args:
        folder: of the run.
        say: prints an error in a line; a card that is written is not announced.
    """
    from stages.card.write import write_at_end

    write_at_end(folder, say)


def write_page(folder: str | Path, say: Callable[[str], Any]) -> None:
    """Writes the page of a run that has ended, unless the environment says no.

    Args:
        folder: of the run.
        say: prints what to install, or an error, in a line; a page that is written is not announced.
    """
    if os.environ.get(PAGE) != "0":
        from stages.report.write import write_at_end

        write_at_end(folder, say)
