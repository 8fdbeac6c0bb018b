"""The data of a run after pretraining: rows read, rendered by the chat template, encoded, split.

Nothing is kept on disk: rows are few, and are read again when a run goes on. The pipe's digest is in the
run's fingerprint, so a run never goes on with other data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data_pipes.chat.chat import ChatTemplate, Encoded, OnError, encode_completions
from data_pipes.chat.messages import Conversation, Preference, Prompt
from data_pipes.embedded import lessons
from data_pipes.preference import Pair, encode_preferences
from data_pipes.prompts import encode_prompts
from data_pipes.rows import forms
from data_pipes.source.path import rows as source_rows
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.types import BadRow, OnBad, Row
from stages.run.data.documents import on_bad_row
from stages.run.options import ranges
from stages.run.options.tuning import TuningOptions

Example = TypeVar("Example")
Named = TypeVar("Named", Conversation, Preference, Prompt)
Say = Callable[[str], None]

BAD = "bad_rows.jsonl"
"""Where skipped rows are noted, in the run's folder."""


BATCH = 1024
"""Rows that are rendered and encoded at a time."""


class Asked(NamedTuple):
    """A prompt for reinforcement learning: its tokens, its text, and the row that it came from."""

    tokens: np.ndarray
    text: str
    row: dict[str, Any]


class Data(NamedTuple):
    """Encoded examples, and those of them that are held out."""

    train: Sequence[Any]
    held_out: Sequence[Any]


def conversations(
    options: TuningOptions, tokenizer: Tokenizer, template: ChatTemplate, say: Say = print
) -> Data:
    """Reads conversations to learn from, as `data_pipes.chat.chat.Encoded`.

    Args:
        options: the flags.
        tokenizer, template: of the model.
        say: takes a line for the person who waits.

    Returns:
        Data.

    Raises:
        ValueError: for a row that cannot be read (unless --on_bad skip), or if there are none.
        FileNotFoundError: if there is no such file.
    """
    made = _both(options, lessons.instructions)
    return _each(options, made, partial(_encoded, tokenizer=tokenizer, template=template), say)


def pairs(options: TuningOptions, tokenizer: Tokenizer, template: ChatTemplate, say: Say = print) -> Data:
    """Reads preference pairs, as `data_pipes.preference.Pair`: otherwise as `conversations`.

    Args:
        options, tokenizer, template, say: as in `conversations`.

    Returns:
        Data.
    """
    made = _both(options, lessons.preferences)
    return _each(options, made, partial(_compared, tokenizer=tokenizer, template=template), say)


def questions(options: TuningOptions, tokenizer: Tokenizer, template: ChatTemplate, say: Say = print) -> Data:
    """Reads prompts to answer, as Asked: otherwise as `conversations`.

    Args:
        options, tokenizer, template, say: as in `conversations`.

    Returns:
        Data.
    """
    made = _both(options, lessons.questions)
    return _each(options, made, partial(_asked, tokenizer=tokenizer, template=template), say)


def _both(options: TuningOptions, make: Callable[..., list[Row]]) -> Callable[[], tuple[Iterable[Row], ...]]:
    """Returns a loader: of generated rows, already split, or of the rows of a file."""
    if options.data_path == "embedded":
        return lambda: (
            make(options.examples, key=options.seed),
            make(options.held_out, key=options.seed + 1, part="held_out"),
        )
    return lambda: (
        source_rows(options.data_path, subset=options.subset, split=options.split, on_bad=_bad(options)),
    )


def _each(
    options: TuningOptions,
    made: Callable[[], tuple[Iterable[Row], ...]],
    encode: Callable[..., list[Example]],
    say: Say,
) -> Data:
    """Encodes the rows, and splits off those that are held out."""
    bad = Path(options.output_dir) / BAD
    bad.unlink(missing_ok=True)  # of an earlier start of the same run
    parts = [encode(part, on_bad=_bad(options)) for part in made()]
    passed = len(bad.read_text(encoding="utf-8").splitlines()) if bad.exists() else 0
    told = f"; {passed:,} rows were passed over, see {bad}" if passed else ""
    if not parts[0]:
        raise ValueError(f"--data_path {options.data_path}: no row is left to learn from{told}")
    if len(parts) == 1:
        count = min(options.held_out, len(parts[0]) // 5)
        every = len(parts[0]) // count if count else 0
        apart = set(range(0, every * count, every)) if count else set()
        parts = [[x for i, x in enumerate(parts[0]) if i not in apart], [parts[0][i] for i in sorted(apart)]]
    if not parts[1]:
        ranges.refuse_no_held_out(options, len(parts[0]))
    say(f"data: {len(parts[0]):,} rows to learn from, {len(parts[1]):,} held out{told}")
    return Data(*parts)


def _encoded(
    rows: Iterable[Row], *, on_bad: OnBad, tokenizer: Tokenizer, template: ChatTemplate
) -> list[Encoded]:
    """Rows -> Encoded."""
    found: list[Encoded] = []
    for some, on_error, _ in _batches(forms.conversations(rows, on_bad=on_bad), on_bad):
        pairs = [(record.messages[: record.prompt], record.messages[record.prompt :]) for record in some]
        contexts = [record.context for record in some]
        found += encode_completions(template, tokenizer, pairs, contexts=contexts, on_error=on_error)
    return found


def _compared(
    rows: Iterable[Row], *, on_bad: OnBad, tokenizer: Tokenizer, template: ChatTemplate
) -> list[Pair]:
    """Rows -> Pair."""
    found: list[Pair] = []
    for some, on_error, _ in _batches(forms.preferences(rows, on_bad=on_bad), on_bad):
        found += encode_preferences(template, tokenizer, some, on_error=on_error)
    return found


def _asked(
    rows: Iterable[Row], *, on_bad: OnBad, tokenizer: Tokenizer, template: ChatTemplate
) -> list[Asked]:
    """Rows -> Asked; the text is that of the last message, which is what a person would call the prompt."""
    found: list[Asked] = []
    for some, on_error, refused in _batches(forms.prompts(rows, on_bad=on_bad), on_bad):
        tokens = encode_prompts(template, tokenizer, some, on_error=on_error)
        kept = [record for number, record in enumerate(some) if number not in refused]
        found += [
            Asked(ids, p.messages[-1].content or "", dict(p.row)) for ids, p in zip(tokens, kept, strict=True)
        ]
    return found


def _batches(records: Iterable[Named], on_bad: OnBad) -> Iterator[tuple[list[Named], OnError, set[int]]]:
    """Records in batches, what makes a bad row of one that the template refuses, and the numbers of these."""
    records = iter(records)
    while some := list(islice(records, BATCH)):
        refused: set[int] = set()
        yield some, partial(_refused, some, refused, on_bad), refused


def _refused(some: Sequence[Named], refused: set[int], on_bad: OnBad, number: int, error: ValueError) -> None:
    """A record that the template refuses is a bad row like any other."""
    refused.add(number)
    on_bad(BadRow(some[number].name, " ".join(str(error).split())))


def _bad(options: TuningOptions) -> Callable[[BadRow], Any]:
    """Stops at a bad row, or notes it and goes on."""
    return on_bad_row(options.on_bad, Path(options.output_dir) / BAD)
