"""`intro2llm evaluate` and `compare`: figures of a model, and what changed between two evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from stages.evaluate.options import EvaluateOptions


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare two evaluations of the same questions, question by question."""

    first: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FIRST")]
    """The --output_dir of an evaluation."""
    second: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SECOND")]
    """The --output_dir of another one; differences are its scores minus those of FIRST."""


def evaluate(options: EvaluateOptions) -> int:
    """Evaluates a model, and prints the table of figures.

    Returns:
        The exit code.
    """
    print(f"loading {options.model_path}", flush=True)  # before torch, which takes seconds
    from stages.evaluate import build, record

    loaded = build.load(options)
    tasks = build.tasks(options, loaded)
    reports = record.evaluate(tasks, options.output_dir, about=build.about(options, loaded))
    print(f"\n{record.table(reports)}")
    print(
        f"\nprompts and completions: {options.output_dir}/{record.SAMPLES}; figures: {record.RESULTS} there"
    )
    return 0


def compare(options: CompareOptions) -> int:
    """Compares two evaluations, and prints the table of differences.

    Returns:
        The exit code.
    """
    from stages.evaluate import compare, record

    print(compare.table(compare.compare(record.read(options.first), record.read(options.second))))
    return 0
