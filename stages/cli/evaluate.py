"""`intro2llm evaluate`: measures a model by perplexity, multiple choice, programs, and questions with one
answer."""

from __future__ import annotations

from collections.abc import Sequence

from stages.cli.flags import parse
from stages.evaluate.options import EvaluateOptions


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, evaluates, prints the table."""
    options = parse(EvaluateOptions, "evaluate", arguments)
    print(f"loading {options.model_path}", flush=True)  # before torch, which takes seconds
    from stages.evaluate import build, record

    loaded = build.load(options)
    tasks = build.tasks(options, loaded)
    reports = record.evaluate(tasks, options.output_dir, about=build.about(options, loaded))
    print("\n" + record.table(reports))
    print(
        f"\nevery prompt and answer: {options.output_dir}/{record.SAMPLES}; figures: {record.RESULTS} there"
    )
    return 0
