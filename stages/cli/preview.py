"""`intro2llm preview`: one batch in colour, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stages.cli.flags import parse

COLOURS: Mapping[str, str] = {"trained": "bold green", "read": "dim", "padding": "red"}


@dataclass(frozen=True, kw_only=True)
class PreviewOptions:
    """Shows the rows that a rung would train on: green is learned, grey is only read."""

    model_path: str
    """The model whose tokenizer and chat template are used."""
    stage: Literal["sft", "dpo", "grpo"] = "sft"
    """Whose rows: conversations, preference pairs, or prompts."""
    data_path: str = "embedded"
    """Rows to learn from: JSONL, JSON, CSV, Parquet, Arrow, a folder of them, a data set's name; "embedded"
    needs no download."""
    chat_template: str | None = None
    """File of a jinja2 chat template, or one of ours: qwen2.5, qwen3, llama3, deepseek-r1, chatml; None takes
    the model's own, or ChatML."""
    template_kwargs: str | None = None
    """Variables of the chat template, as a JSON object: '{"enable_thinking": false}'; strftime_now is a
    date."""
    max_length: int = 256
    """Tokens a row."""
    subset: str | None = None
    """Configuration of a data set that has several; of a folder one that its README.md lists, or a folder in
    it."""
    split: str = "train"
    """Part of a data set, or of a folder in one of the hub's layouts, such as train.jsonl beside
    test.jsonl."""
    on_bad: Literal["stop", "skip"] = "stop"
    """At a row that cannot be read: stop, or pass over it."""
    rows: int = 3
    """Rows to show."""
    packing: bool = True
    """Put several conversations side by side in a row, as sft does."""
    batch: int = 0
    """Number of the batch to show, from 0."""
    seed: int = 0
    """Seed of the order."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags, builds the pipe, prints a batch of it."""
    options = parse(PreviewOptions, "preview", arguments)
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
    from stages.models import pretrained
    from stages.models.chat_template import template_of
    from stages.run.data import examples
    from stages.run.options.tuning import SFTOptions
    from stages.run.tuning import told

    base = pretrained.load(options.model_path, dtype=torch.float32)
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
    told(pipe, print)
    if not 0 <= options.batch < len(pipe):
        raise ValueError(f"--batch {options.batch}: there are {len(pipe)}, from 0 on")
    return pipe[options.batch], base.tokenizer.decode
