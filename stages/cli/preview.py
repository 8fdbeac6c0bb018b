"""`intro2llm preview`: one training batch in colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from stages.run.options.groups import ChatModelFlags, RowFlags
from stages.run.options.ranges import AtLeast, Seed

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipes.table import TablePipe

COLOURS: Mapping[str, str] = {"trained": "bold green", "read": "dim", "padding": "red"}
"""Style of each kind of token."""


@dataclass(frozen=True, kw_only=True)
class PreviewOptions(RowFlags, ChatModelFlags):
    """Print one training batch in colour: trained tokens are green, context is grey."""

    stage: Literal["sft", "dpo", "grpo"] = "sft"
    """Stage whose rows are shown: conversations, preference pairs or prompts."""
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
        ValueError: if the pipe has no batch --batch.
    """
    import tempfile

    import torch

    from stages.models import language_model
    from stages.models.chat_template import template_of
    from stages.run.data import examples
    from stages.run.options.tuning import TuningOptions

    base = language_model.load(options.model_path, dtype=torch.float32)
    template = template_of(options.chat_template, base, options.template_kwargs)
    kinds = {"sft": examples.CONVERSATIONS, "dpo": examples.PREFERENCES, "grpo": examples.PROMPTS}
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

        data = examples.read(kinds[options.stage], source, base.tokenizer, template, say).train
    size = {"batch_size": options.rows, "length": options.max_length, "key": options.seed}
    pipe = _pipe(options.stage, data, packing=options.packing, **size)
    examples.report_lost_rows(pipe, print)
    if options.batch >= len(pipe):
        raise ValueError(f"--batch {options.batch}: expected less than {len(pipe)}, the number of batches")
    _print_batch(pipe[options.batch], base.tokenizer.decode)
    return 0


def _pipe(stage: str, data: Sequence[Any], *, packing: bool, **size: Any) -> TablePipe:
    """Builds the stage's pipe."""
    from data_pipes.preference import preference_pipe
    from data_pipes.prompts import prompt_pipe
    from data_pipes.sft import sft_pipe

    if stage == "sft":
        return sft_pipe(data, packing=packing, **size)
    if stage == "dpo":
        return preference_pipe(data, **size)
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
