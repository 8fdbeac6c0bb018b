"""`intro2llm report`: the page of one or more runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write the page of a run, or of several with their curves in the same figures.

    One HTML file that needs no network: curves, gains, completions with their rewards, flags.
    """

    run: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of the runs: the --output_dir of a training stage, or of the demo."""
    output: str | None = None
    """File to write. Default: report.html in the folder of one run, in the current folder for several."""


def run(options: ReportOptions) -> int:
    """Reads the runs, writes the page, and prints its path.

    Returns:
        The exit code.

    Raises:
        ValueError: without a run; as `stages.report.write.write_report`.
        ImportError: without bokeh.
    """
    from stages.report.write import write_report

    if not options.run:
        raise ValueError("expected the folders of one or more runs: intro2llm report RUN [RUN ...]")
    print(f"reading {', '.join(options.run)}", file=sys.stderr, flush=True)
    print(write_report(options.run, options.output))
    return 0
