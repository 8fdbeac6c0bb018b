"""`intro2llm preview`: one batch in colour, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from stages.run.options.groups import ChatModelFlags, RowFlags
from stages.run.options.ranges import AtLeast, Seed

COLOURS: Mapping[str, str] = {"trained": "bold green", "read": "dim", "padding": "red"}


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
    """Builds the pipe, prints a batch of it."""
    from rich.console import Console
    from rich.text import Text

    from data_pipes.preview import preview

    console = Console(highlight=False, soft_wrap=True)
    batch, decode = _batch(options)
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
        learned = (batch["labels"] >= 0).float().mean().item()
        console.print(f"{learned:.0%} of the places are learned from", style="cyan")
    return 0


def _batch(options: PreviewOptions) -> tuple[dict, Callable[[Sequence[int]], str]]:
    """The batch, and what decodes it."""
    import tempfile

    import torch

    from data_pipes.preference import preference_pipe
    from data_pipes.prompts import prompt_pipe
    from data_pipes.sft import sft_pipe
    from stages.models import language_model
    from stages.models.chat_template import template_of
    from stages.run.data import examples
    from stages.run.options.tuning import SFTOptions

    base = language_model.load(options.model_path, dtype=torch.float32)
    template = template_of(options.chat_template, base, options.template_kwargs)
    kinds = {"sft": examples.CONVERSATIONS, "dpo": examples.PREFERENCES, "grpo": examples.PROMPTS}
    with tempfile.TemporaryDirectory() as folder:  # notes of bad rows stay out of every run's folder
        source = examples.Source(
            options.data_path,
            folder,
            held_out=SFTOptions.held_out,
            examples=64 * options.rows,
            seed=options.seed,
            subset=options.subset,
            split=options.split,
            on_bad=options.on_bad,
        )
        kind = kinds[options.stage]
        data = examples.read(
            kind, source, base.tokenizer, template, lambda text: print(text.partition(", see ")[0])
        ).train
    common: dict[str, Any] = {"batch_size": options.rows, "length": options.max_length, "key": options.seed}
    pipe: Any
    if options.stage == "sft":
        pipe = sft_pipe(data, packing=options.packing, **common)
    elif options.stage == "dpo":
        pipe = preference_pipe(data, **common)
    else:
        pipe = prompt_pipe([prompt.tokens for prompt in data], truncate="left", **common)
    examples.report_lost_rows(pipe, print)
    if not 0 <= options.batch < len(pipe):
        raise ValueError(f"--batch {options.batch}: there are {len(pipe)}, from 0 on")
    return pipe[options.batch], base.tokenizer.decode
