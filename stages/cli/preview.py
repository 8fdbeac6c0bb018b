"""`intro2llm preview`: one training batch in colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages.cli.notice import say_waiting
from stages.run.options.groups import ChatModelFlags, RowFlags
from stages.run.options.ranges import AtLeast, Seed
from stages.run.options.tuning import STAGES, TuningOptions

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipes.table import TablePipe
    from stages.run.data.examples import Kind

    StageName = str
else:
    StageName = Literal[tuple(STAGES)]

COLOURS: Mapping[str, str] = {"trained": "bold green", "read": "dim", "padding": "red"}
"""Style of each kind of token."""


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(RowFlags, ChatModelFlags):
    """Print one training batch in colour: trained tokens are green, context is grey."""

    stage: StageName = "sft"
    """Stage whose rows are shown: conversations, preference pairs, labelled answers or prompts."""
    data_path: str = "embedded"
    """Training data: JSONL, JSON, CSV, Parquet or Arrow files, a folder of them, or a data set's name;
    "embedded" needs no download."""
    max_length: Annotated[int, AtLeast(1)] = 256
    """Tokens per row."""
    rows: Annotated[int, AtLeast(1)] = 3
    """Number of rows to show."""
    packing: bool = True
    """Pack several conversations into a row, as sft does."""
    batch: Annotated[int, AtLeast(0)] = 0
    """Number of the batch to show, from 0."""
    seed: Seed = 0
    """Random seed of the order."""


def run(options: PreviewOptions) -> int:
    """Builds the pipe, and prints one batch of it.

    Returns:
        The exit code.

    Raises:
        ValueError: if the pipe has no batch --batch, or for --no_packing of a stage that never packs.
    """
    say_waiting(f"loading {options.model_path}")
    import tempfile

    import torch

    from stages.models import language_model
    from stages.models.chat_template import template_of
    from stages.run import build
    from stages.run.data import examples

    if not options.packing and options.stage != "sft":
        raise ValueError(f"--no_packing: only sft packs rows, {options.stage} never does; leave it out")
    base = language_model.load(options.model_path, dtype=torch.float32)
    template = template_of(options.chat_template, base, options.template_kwargs)
    rows = build.RECIPES[STAGES[options.stage]].rows
    with tempfile.TemporaryDirectory() as folder:  # holds the list of bad rows, which is not needed
        source = examples.Source(
            options.data_path,
            folder,
            held_out=TuningOptions.held_out,
            examples=64 * options.rows,
            seed=options.seed,
            subset=options.subset,
            split=options.split,
            on_bad=options.on_bad,
        )

        def say(line: str) -> None:
            print(line.partition(", see ")[0])  # without the path of that list

        data = examples.read(rows, source, base.tokenizer, template, say).train
    size = {"batch_size": options.rows, "length": options.max_length, "key": options.seed}
    pipe = _pipe(rows, data, packing=options.packing, **size)
    examples.report_lost_rows(pipe, print)
    if options.batch >= len(pipe):
        raise ValueError(f"--batch {options.batch}: expected less than {len(pipe)}, the number of batches")
    _print_batch(pipe[options.batch], base.tokenizer.decode)
    return 0


def _pipe(rows: Kind, data: Sequence[Any], *, packing: bool, **size: Any) -> TablePipe:
    """Builds the pipe of a kind of rows."""
    from data_pipes.preference import preference_pipe, unpaired_pipe
    from data_pipes.prompts import prompt_pipe
    from data_pipes.sft import sft_pipe
    from stages.run.data import examples

    if rows is examples.CONVERSATIONS:
        return sft_pipe(data, packing=packing, **size)
    if rows is examples.PREFERENCES:
        return preference_pipe(data, **size)
    if rows is examples.UNPAIRED:
        return unpaired_pipe(data, **size)
    return prompt_pipe([prompt.tokens for prompt in data], truncate="left", **size)


def _print_batch(batch: Mapping[str, Tensor], decode: Callable[[Sequence[int]], str]) -> None:
    """Prints the tokens of each row, and the share of the positions that are trained."""
    from rich.console import Console
    from rich.text import Text

    from data_pipes.preview import preview

    console = Console(highlight=False, soft_wrap=True)
    for number, pieces in enumerate(preview(batch, decode)):
        text = Text(f"--- row {number}\n", style="cyan")
        segment = 0
        for piece in pieces:
            if piece.segment != segment:
                text.append("\n--- next example in the same row\n", style="cyan")
                segment = piece.segment
            text.append(piece.text, style=COLOURS[piece.kind])
        console.print(text)
    if "labels" in batch:
        share = (batch["labels"] >= 0).float().mean().item()
        console.print(f"{share:.0%} of the positions are trained", style="cyan")
