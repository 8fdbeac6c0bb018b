"""Read the rows of a post-training run: parse, render with the chat template, encode and split them.

Nothing is kept on disk: rows are few, and are read again when a run resumes. The pipe's digest is in the
run's fingerprint, so a run never resumes with other data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from data_pipes.chat.chat import ChatTemplate
from data_pipes.embedded import tuning_rows
from data_pipes.record_encoding import (
    Encode,
    encode_conversations,
    encode_preferences,
    encode_prompt_rows,
    encode_records,
    encode_unpaired,
)
from data_pipes.rows import records
from data_pipes.source.path import rows as source_rows
from data_pipes.table import TablePipe
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.types import BadRow, OnBad, Row
from data_pipes.workers import usable_cores
from pure.plural import count_noun
from stages.run.data import bad_rows
from stages.run.options.base import BatchFlags

Example = TypeVar("Example")

BAD = "bad_rows.jsonl"
"""File of the run's folder that lists the skipped rows."""

LENGTH_MULTIPLE = 8
"""Tokens of a row are a multiple of this."""


class Source(NamedTuple):
    """The location of rows, and how they are split.

    Fields:
        data_path: a file, a folder, a data set's name, or "embedded" for generated rows.
        output_dir: the run's folder, where skipped rows are listed.
        held_out: validation rows, at most a fifth of those in a file.
        examples: generated training rows.
        seed: seed of the generated rows.
        subset, split: parts of a data set, as in `data_pipes.source.path.rows`.
        on_bad: "stop" or "skip", as in `stages.run.data.bad_rows.handler`.
        workers: processes that encode; None takes the cores, or this process's share of them if torchrun
            started several here, each of which encodes all rows.
    """

    data_path: str
    output_dir: str
    held_out: int
    examples: int
    seed: int = 0
    subset: str | None = None
    split: str = "train"
    on_bad: Literal["stop", "skip"] = "stop"
    workers: int | None = None


class Data(NamedTuple):
    """Encoded examples for training, and the held-out ones."""

    train: Sequence[Any]
    held_out: Sequence[Any]


class Generate(Protocol):
    """Generates rows, as the functions of `data_pipes.embedded.tuning_rows`."""

    def __call__(self, count: int, *, key: Any, part: str = "train") -> list[Row]: ...


class MakePipe(Protocol):
    """Makes a pipe of encoded examples, such as `data_pipes.sft.sft_pipe` with its length bound."""

    def __call__(
        self, examples: Any, /, *, batch_size: int, key: Any, epochs: int = 1, shuffle: bool = True
    ) -> TablePipe: ...


class Kind(NamedTuple):
    """A kind of rows, such as conversations or preference pairs, and the functions that produce its examples.

    Fields:
        generate: the rows of --data_path embedded.
        parse: (rows, on_bad=) -> records, of `data_pipes.rows.records`.
        encode: records -> examples for the pipe.
    """

    generate: Generate
    parse: Callable[..., Iterator[Any]]
    encode: Encode


def read(
    kind: Kind,
    source: Source,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    say: Callable[[str], Any] = print,
    *,
    lists_bad: bool = True,
) -> Data:
    """Reads, encodes and splits the rows of a run.

    Args:
        kind: CONVERSATIONS, PREFERENCES, UNPAIRED or PROMPTS.
        source: location of the rows.
        tokenizer, template: those of the model.
        say: prints a message to the user.
        lists_bad: writes the list of bad rows; on many processes only one does.

    Returns:
        Data of `data_pipes.chat.chat.Encoded`, or of `data_pipes.record_encoding`'s Pair, Answer or
        EncodedPrompt.

    Steps:
        1. Delete the list of bad rows of an earlier start.
        2. Parse and encode the rows of each part.
        3. Rows of a file: hold out rows at even spacing. Generated rows are split already.

    Raises:
        ValueError: for a row that cannot be read (unless on_bad is "skip"), or if there are none.
        FileNotFoundError: if there is no such file.
    """
    # 1. An earlier start.
    bad = Path(source.output_dir) / BAD
    if lists_bad:
        bad.unlink(missing_ok=True)
    # 2. Examples.
    on_bad = bad_rows.handler(source.on_bad, bad if lists_bad else None)
    encode = partial(_encode, kind, source=source, on_bad=on_bad, tokenizer=tokenizer, template=template)
    parts = [encode(rows) for rows in _load(kind.generate, source, on_bad)]
    skipped = len(bad_rows.read(bad)) if lists_bad else 0
    note = f"; {count_noun(skipped, 'row')} skipped, see {bad}" if skipped else ""
    if not parts[0]:
        raise ValueError(f"--data_path {source.data_path}: no row is left to train on{note}")
    # 3. Split.
    data = Data(*parts) if len(parts) == 2 else hold_out(parts[0], source.held_out)
    say(f"data: {count_noun(len(data.train), 'row')} to train on, {len(data.held_out):,} held out{note}")
    return data


def hold_out(examples: Sequence[Example], count: int) -> Data:
    """Splits off validation examples at even spacing, at most a fifth of all.

    Example:
        >>> hold_out(range(10), 2)
        Data(train=[1, 2, 3, 4, 6, 7, 8, 9], held_out=[0, 5])
    """
    count = min(count, len(examples) // 5)
    if not count:
        return Data(list(examples), [])
    spacing = len(examples) // count
    chosen = range(0, spacing * count, spacing)
    train = [example for place, example in enumerate(examples) if place not in chosen]
    return Data(train, [examples[place] for place in chosen])


def training_pipe(
    make: MakePipe, examples: Sequence[Any], flags: BatchFlags, *, seed: int, say: Callable[[str], Any]
) -> TablePipe:
    """Makes the pipe of the training examples, and reports what it truncated and dropped.

    Args:
        make: such as `data_pipes.sft.sft_pipe` with its length bound.
        examples: encoded examples.
        flags: batch_size, and num_epochs or, if it is set, max_steps.
        seed: seed of the shuffling.
        say: prints a message to the user.

    Returns:
        The pipe.
    """
    # With --max_steps, enough epochs even if each has one row only; the slice ends the pipe.
    epochs = max(flags.max_steps * flags.batch_size, 1) if flags.max_steps else flags.num_epochs
    pipe = make(examples, batch_size=flags.batch_size, key=seed, epochs=epochs)[: flags.max_steps]
    report_lost_rows(pipe, say)
    return pipe


def held_out_pipe(make: MakePipe, examples: Sequence[Any], *, batch_size: int) -> TablePipe | None:
    """Makes the pipe of the held-out examples, in their order; None without examples."""
    return make(examples, batch_size=batch_size, key=None, shuffle=False) if examples else None


def row_length(longest: int, max_length: int) -> int:
    """Rounds the longest example's length up to a multiple of LENGTH_MULTIPLE; at most max_length.

    Example:
        >>> row_length(21, 256), row_length(300, 256)
        (24, 256)
    """
    return min(math.ceil(longest / LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_length)


def report_lost_rows(pipe: TablePipe, say: Callable[[str], Any]) -> None:
    """Reports how many rows a pipe truncated and how many it dropped, if any.

    Args:
        pipe: a pipe of examples.
        say: prints a message to the user.
    """
    if pipe.truncated or pipe.dropped:
        say(
            f"data: {count_noun(pipe.truncated, 'row')} too long and truncated, {pipe.dropped:,} dropped "
            "with no token left to train on; --max_length sets the limit"
        )


def _load(generate: Generate, source: Source, on_bad: OnBad) -> Iterator[Iterable[Row]]:
    """Yields the rows of a file, or generated training rows and then the held-out ones."""
    if source.data_path == "embedded":
        yield generate(source.examples, key=source.seed)
        yield generate(source.held_out, key=source.seed + 1, part="held_out")
    else:
        yield source_rows(source.data_path, subset=source.subset, split=source.split, on_bad=on_bad)


def _encode(
    kind: Kind,
    rows: Iterable[Row],
    *,
    source: Source,
    on_bad: OnBad,
    tokenizer: Tokenizer,
    template: ChatTemplate,
) -> list[Any]:
    """Rows -> examples; a row that the template refuses is a bad row like any other.

    Refused rows are listed after all others: those are listed as they are read, which is some batches before
    they are encoded, and the list must not depend on the number of workers.
    """
    refused: list[BadRow] = []
    examples = encode_records(
        kind.parse(rows, on_bad=on_bad),
        kind.encode,
        template,
        tokenizer,
        on_bad=on_bad if source.on_bad == "stop" else refused.append,
        workers=source.workers,
        cores=max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))),
    )
    for bad in refused:
        on_bad(bad)
    return examples


CONVERSATIONS = Kind(tuning_rows.instructions, records.read_conversations, encode_conversations)
"""Conversations to imitate, for supervised fine-tuning."""

PREFERENCES = Kind(tuning_rows.preferences, records.read_preferences, encode_preferences)
"""Pairs of a chosen and a rejected answer, for DPO and reward models."""

UNPAIRED = Kind(tuning_rows.unpaired, records.read_unpaired, encode_unpaired)
"""Single answers marked desirable or not, for KTO."""

PROMPTS = Kind(tuning_rows.prompts, records.read_prompts, encode_prompt_rows)
"""Prompts to answer, for GRPO and PPO."""
