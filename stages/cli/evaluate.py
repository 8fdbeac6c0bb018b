"""`intro2llm evaluate` and `compare`: metrics of a model, and the differences of two evaluations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from stages.cli.notice import say_waiting
from stages.evaluate.options import EvaluateOptions

if TYPE_CHECKING:
    from stages.run.processes import Processes


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare two evaluations of the same questions, question by question."""

    first: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FIRST")]
    """The --output_dir of an evaluation."""
    second: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SECOND")]
    """The --output_dir of another one; differences are its scores minus those of FIRST."""


def evaluate(options: EvaluateOptions, processes: Processes | None = None) -> int:
    """Evaluates a model, and prints the table of results.

    Args:
        options: the flags.
        processes: those that share the questions; None is one alone.

    Returns:
        The exit code.
    """
    print(f"loading {options.model_path}", flush=True)  # before torch, which takes seconds
    from stages.evaluate import build, record
    from stages.models import hardware, language_model
    from stages.run import parallel
    from stages.run.processes import ALONE, take_gpu

    processes = processes or ALONE
    device = hardware.pick_device(options.device)
    take_gpu(processes, device)
    parallel.compare_flags(processes, dataclasses.asdict(options))
    loaded = language_model.load(options.model_path, dtype=hardware.pick_dtype(options.dtype, device))
    loaded = language_model.move_to(loaded, device)
    tasks = build.build_tasks(options, loaded)
    windows = build.describe_windows(loaded, options.max_length) if "perplexity" in options.task else ""
    prompts = build.describe_prompts(options.task, options.data_path, options.chat, loaded)
    for line in filter(None, (windows, prompts)):
        print(line, flush=True)
    about = build.describe_provenance(options, loaded)
    reports = record.evaluate(
        tasks, options.output_dir, about=about, flags=dataclasses.asdict(options), processes=processes
    )
    print(f"\n{record.format_table(reports)}")
    print(
        f"\nprompts and completions: {options.output_dir}/{record.SAMPLES}; results: {record.RESULTS} there"
    )
    return 0


def compare(options: CompareOptions) -> int:
    """Compares two evaluations, and prints the table of differences.

    Returns:
        The exit code.
    """
    say_waiting(f"reading {options.first} and {options.second}")
    from stages.evaluate import compare, record

    print(
        compare.format_table(
            compare.compare(record.read_samples(options.first), record.read_samples(options.second))
        )
    )
    return 0
