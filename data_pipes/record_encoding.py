"""Encode parsed rows (conversations, preferences, labelled answers, prompts) with a chat template.

The pipes of `sft`, `preference` and `prompts` are built from the result. This file does not import torch, so
that worker processes begin quickly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipes.chat.chat import ChatTemplate, Encoded, OnError, encode_completions, encode_prompt_chats
from data_pipes.chat.messages import Context, Conversation, Messages, Preference, Prompt, Unpaired
from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.types import BadRow, OnBad
from data_pipes.workers import group, map_in_order

Record = Conversation | Preference | Unpaired | Prompt

BATCH = 1024
"""Rows that are rendered and encoded at a time."""


class Pair(NamedTuple):
    """Two answers to one prompt, each encoded with the prompt; only the answer's tokens are trained on."""

    chosen: Encoded
    rejected: Encoded


class Answer(NamedTuple):
    """One answer, encoded with its prompt, and its label; only the answer's tokens are trained on."""

    completion: Encoded
    desirable: bool


class EncodedPrompt(NamedTuple):
    """A prompt for reinforcement learning: its token ids, its text, and the row that it came from."""

    tokens: np.ndarray
    text: str
    row: dict[str, Any]


class Encode(Protocol):
    """Encodes parsed rows; those that the template refuses are left out and given to `on_error`."""

    def __call__(
        self, template: ChatTemplate, tokenizer: Tokenizer, records: Any, /, *, on_error: OnError
    ) -> list[Any]: ...


def encode_records(
    records: Iterable[Record],
    encode: Encode,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    on_bad: OnBad,
    workers: int | None = 1,
    cores: int | None = None,
) -> list[Any]:
    """Encodes a stream of records, a thousand at a time, in one process or in several.

    Args:
        records: parsed rows, of `data_pipes.rows.records`.
        encode: a function of this module, or another that can be pickled.
        template: see `data_pipes.chat.chat.chat_template`.
        tokenizer: as in `data_pipes.chat.chat.encode_chats`.
        on_bad: called with each record that the template refuses, in order.
        workers, cores: see `map_in_order`; None takes 1 process for at most four thousand records.

    Returns:
        The examples, without those of refused records.

    Raises:
        ValueError: as in the tokenizer's `encode`.
        ChildProcessError: if a worker process was ended.
    """
    examples: list[Any] = []
    function = partial(encode_batch, encode=encode, template=template, tokenizer=tokenizer)
    batches = group(records, BATCH, _count_one)
    for batch, (found, refused) in map_in_order(function, batches, workers, cores=cores):
        for number, reason in refused:
            on_bad(BadRow(batch[number].name, reason))
        examples += found
    return examples


def encode_batch(
    batch: Sequence[Record], *, encode: Encode, template: ChatTemplate, tokenizer: Tokenizer
) -> tuple[list[Any], list[tuple[int, str]]]:
    """Encodes a batch of records.

    Args:
        batch: records.
        encode, template, tokenizer: as in `encode_records`.

    Returns:
        (examples, [(index of a record that the template refuses, the reason in one line)]).
    """
    refused: list[tuple[int, str]] = []

    def note_refusal(number: int, error: ValueError) -> None:
        refused.append((number, " ".join(str(error).split())))

    return encode(template, tokenizer, batch, on_error=note_refusal), refused


def encode_conversations(
    template: ChatTemplate, tokenizer: Tokenizer, records: Sequence[Conversation], *, on_error: OnError
) -> list[Encoded]:
    """Encodes conversations.

    Args:
        template, tokenizer: as in `data_pipes.chat.chat.encode_chats`.
        records: conversations.
        on_error: called with the index of each that the template refuses, and the error.

    Returns:
        Encoded for each conversation that the template takes; the assistant's turns after the prompt are
        trained.
    """
    pairs = [(record.messages[: record.prompt], record.messages[record.prompt :]) for record in records]
    contexts = [record.context for record in records]
    return encode_completions(template, tokenizer, pairs, contexts=contexts, on_error=on_error)


def encode_preferences(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    preferences: Iterable[Preference],
    *,
    on_error: OnError | None = None,
) -> list[Pair]:
    """Encodes pairs: renders prompt and answer with the template; only the answer's tokens are trained on.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        tokenizer: as in `data_pipes.chat.chat.encode_chats`.
        preferences: prompts, each with two answers; one call for many is faster.
        on_error: called with the index of each pair that the template refuses, and the error; the pair is
            left out of the result. None raises the first error.

    Returns:
        A Pair for each preference. Assistant turns in the prompt are not trained on.

    Raises:
        ValueError: as in `data_pipes.chat.chat.encode_chats`.
    """
    records = list(preferences)
    conversations = [(record.prompt, side) for record in records for side in (record.chosen, record.rejected)]
    contexts = [record.context for record in records for _ in range(2)]
    errors: dict[int, ValueError] = {}

    def keep_first_error(answer: int, error: ValueError) -> None:
        errors.setdefault(answer // 2, error)  # answers 2i and 2i + 1 are those of pair i

    encoded = _encode(
        template, tokenizer, conversations, contexts, None if on_error is None else keep_first_error
    )
    if on_error is not None:
        for number, error in errors.items():
            on_error(number, error)
    sides = zip(encoded[::2], encoded[1::2], strict=True)
    return [
        Pair(chosen, rejected) for chosen, rejected in sides if chosen is not None and rejected is not None
    ]


def encode_unpaired(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    answers: Iterable[Unpaired],
    *,
    on_error: OnError | None = None,
) -> list[Answer]:
    """Encodes single answers, as `encode_preferences` encodes pairs.

    Args:
        template, tokenizer, on_error: as in `encode_preferences`.
        answers: labelled answers; one call for many is faster.

    Returns:
        An Answer for each record.

    Raises:
        ValueError: as in `encode_preferences`.
    """
    records = list(answers)
    conversations = [(record.prompt, record.completion) for record in records]
    encoded = _encode(template, tokenizer, conversations, [record.context for record in records], on_error)
    labelled = zip(encoded, records, strict=True)
    return [Answer(example, record.desirable) for example, record in labelled if example is not None]


def encode_prompts(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    prompts: Iterable[Prompt],
    *,
    on_error: OnError | None = None,
) -> list[np.ndarray]:
    """Encodes prompts, each up to the start of the assistant's turn, or to the end of an unfinished one.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        tokenizer: as in `data_pipes.chat.chat.encode_chats`.
        prompts: prompts as turns; one call for many is faster.
        on_error: called with the index of each prompt that the template refuses, and the error; the prompt is
            left out of the result. None raises the first error.

    Returns:
        Token ids of each prompt, [n] int64.

    Raises:
        ValueError: as in `data_pipes.chat.chat.encode_chats`.
    """
    records = list(prompts)
    examples = encode_prompt_chats(
        template,
        tokenizer,
        [prompt.messages for prompt in records],
        contexts=[prompt.context for prompt in records],
        on_error=on_error,
    )
    return [example.tokens for example in examples]


def encode_prompt_rows(
    template: ChatTemplate, tokenizer: Tokenizer, records: Sequence[Prompt], *, on_error: OnError
) -> list[EncodedPrompt]:
    """Encodes prompts as `encode_prompts`, with their rows and the content of the last message as text.

    Args:
        template, tokenizer, on_error: as in `encode_prompts`.
        records: prompts.

    Returns:
        An EncodedPrompt for each prompt that the template takes.
    """
    refused: set[int] = set()

    def record_refused(number: int, error: ValueError) -> None:
        refused.add(number)
        on_error(number, error)

    tokens = encode_prompts(template, tokenizer, records, on_error=record_refused)
    kept = [record for number, record in enumerate(records) if number not in refused]
    return [
        EncodedPrompt(ids, record.messages[-1].content or "", dict(record.row))
        for ids, record in zip(tokens, kept, strict=True)
    ]


def _count_one(record: Record) -> int:
    """Each record counts as one."""
    return 1


def _encode(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    conversations: Sequence[tuple[Messages, Messages]],
    contexts: Sequence[Context],
    on_error: OnError | None,
) -> list[Encoded | None]:
    """Encodes (prompt, completion) pairs, of which the completion is trained on; None for those refused."""
    errors: dict[int, ValueError] = {}

    def keep_first_error(number: int, error: ValueError) -> None:
        errors.setdefault(number, error)

    encoded = iter(
        encode_completions(
            template,
            tokenizer,
            conversations,
            contexts=contexts,
            on_error=None if on_error is None else keep_first_error,
        )
    )
    if on_error is not None:
        for number, error in errors.items():
            on_error(number, error)
    return [None if number in errors else next(encoded) for number in range(len(conversations))]
