"""Read requests of OpenAI's API into rows: /v1/chat/completions and /v1/completions.

A field that changes nothing passes; one that would change the completion and is not implemented is refused by
name. Beyond OpenAI's fields, `top_k` and `min_p` are read.

Source: OpenAI's API reference, chat completions and completions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from data_pipes.chat.chat import ChatTemplate, encode_chat
from data_pipes.chat.messages import Message
from data_pipes.rows.turns import read_turns
from pure import random
from pure.plural import count_noun
from stages.models.language_model import Pretrained
from stages.models.text_prompt import encode_prompt
from stages.serve import fields as reading
from stages.serve.errors import RequestError
from stages.serve.row import Row

MOST_STOPS = 16
"""Largest number of stop texts of a request."""

MOST_TEMPERATURE = 2.0
"""Largest temperature, OpenAI's."""

DEFAULT_TOKENS = 16
"""`max_tokens` of /v1/completions, OpenAI's; a chat's default is all that fits."""

READ = (
    "model", "stream", "stream_options", "seed", "n", "stop", "temperature", "top_p", "top_k", "min_p",
    "max_tokens", "logprobs",
)  # fmt: skip
"""Fields of both forms that are read."""

STREAM_OPTIONS = ("include_usage", "include_obfuscation")
"""Fields of `stream_options`; the second pads OpenAI's chunks to equal lengths, and changes no text."""

CHANGE_NOTHING = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls", "prediction",
)  # fmt: skip
"""Fields that OpenAI's service reads, and that do not change a completion."""

NEUTRAL: Mapping[str, Collection[Any]] = MappingProxyType(
    {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
    }
)
"""Field of both forms that is not implemented -> values that change nothing."""

CHAT_NEUTRAL: Mapping[str, Collection[Any]] = MappingProxyType(
    {
        **NEUTRAL,
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "reasoning_effort": (),
        "verbosity": (),
        "web_search_options": (),
    }
)
"""`NEUTRAL`, and the fields of a chat."""

TEXT_NEUTRAL: Mapping[str, Collection[Any]] = MappingProxyType(
    {**NEUTRAL, "echo": (False,), "suffix": ("",), "best_of": (1,)}
)
"""`NEUTRAL`, and the fields of /v1/completions."""


MESSAGE_FIELDS = (
    "role", "from", "content", "value", "name", "tool_calls", "function_call", "tool_call_id", "refusal",
    "annotations",
)  # fmt: skip
"""Fields of a message that are read, given to the template, or refused by `data_pipes.rows.turns`."""


class Served(NamedTuple):
    """The model as requests see it.

    Fields:
        name: its name in the API.
        base: model and tokenizer.
        template: the chat template; None for a model that has none.
        why: what is said to a chat if there is no template.
        max_length: longest prompt and completion together, in tokens.
        longest_token: bytes of the longest token.
        most_rows: largest number of completions of a request.
        text_ends: ids that end a completion of plain text.
        chat_ends: ids that end an answer of a chat.
    """

    name: str
    base: Pretrained
    template: ChatTemplate | None
    why: str
    max_length: int
    longest_token: int
    most_rows: int
    text_ends: frozenset[int]
    chat_ends: frozenset[int]


class Wanted(NamedTuple):
    """A request.

    Fields:
        rows: completions, n of the first prompt, then n of the next.
        prompt_tokens: number of tokens of all prompts.
        seed: the request's, or one that was drawn for it.
        streamed: send each piece as soon as it is there.
        with_usage: end the stream with the number of tokens.
        logprobs: report log-probabilities.
    """

    rows: tuple[Row, ...]
    prompt_tokens: int
    seed: int
    streamed: bool
    with_usage: bool
    logprobs: bool


def read_chat(fields: Mapping[str, Any], served: Served, new_seed: int) -> Wanted:
    """Read a request for chat completions.

    Args:
        fields: the JSON object, without nulls.
        served: the model.
        new_seed: seed of a request without one.

    Returns:
        Wanted.

    Raises:
        RequestError: for a field that is wrong, unknown or not implemented; for another model; for a
            conversation that the template refuses, or that leaves no room in the context.
    """
    if served.template is None:
        raise RequestError(f"{served.why}; send plain text to /v1/completions", param="messages")
    extra = ("messages", "max_completion_tokens", "top_logprobs")
    reading.refuse_fields(fields, (*READ, *CHANGE_NOTHING, *extra), CHAT_NEUTRAL)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: expected a list of messages, at least one", param="messages")
    alternatives = None
    if reading.read_boolean(fields, "logprobs"):
        alternatives = reading.read_integer(fields, "top_logprobs", 0, 0, 20)
    elif "top_logprobs" in fields:
        raise RequestError('top_logprobs: expected "logprobs": true beside it', param="top_logprobs")
    if len(messages) > served.max_length:
        raise RequestError(
            f"this server holds {served.max_length} tokens of prompt and completion; the prompt has "
            f"{len(messages)} messages; leave some out",
            param="messages",
            code="context_length_exceeded",
        )
    for number, message in enumerate(messages, 1):
        _refuse_message_fields(number, message, served.template)
    try:
        turns = read_turns(messages)
        _refuse_huge(sum(_count_characters(turn, served.template) for turn in turns), served)
        prompt = encode_chat(
            served.template, served.base.tokenizer, turns, add_generation_prompt=True
        ).tokens.tolist()
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"messages: {error}", param="messages") from None
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in fields]
    limits = [reading.read_integer(fields, name, None, 1) for name in names]
    limit = min(limits, default=None)
    return _make_rows(fields, served, [prompt], limit, served.chat_ends, alternatives, new_seed)


def read_text(fields: Mapping[str, Any], served: Served, new_seed: int) -> Wanted:
    """Read a request for completions of plain text, or of ids.

    Args:
        fields: as in `read_chat`.
        served: as in `read_chat`.
        new_seed: as in `read_chat`.

    Returns:
        Wanted.

    Raises:
        RequestError: as in `read_chat`.
    """
    reading.refuse_fields(fields, (*READ, *CHANGE_NOTHING, "prompt"), TEXT_NEUTRAL)
    prompts = _read_prompts(fields, served)
    alternatives = reading.read_integer(fields, "logprobs", None, 0, 5)
    limit = reading.read_integer(fields, "max_tokens", DEFAULT_TOKENS, 1)
    return _make_rows(fields, served, prompts, limit, served.text_ends, alternatives, new_seed)


def row_keys(seed: int, rows: int) -> list[Tensor]:
    """Make the key of each row: fold_in(key(seed), row), as in `pure.generation.generate`."""
    key = random.key(seed)
    return [random.fold_in(key, row) for row in range(rows)]


def _make_rows(
    fields: Mapping[str, Any],
    served: Served,
    prompts: Sequence[Sequence[int]],
    limit: int | None,
    ends: frozenset[int],
    alternatives: int | None,
    new_seed: int,
) -> Wanted:
    """Read the fields of both forms, and make the rows."""
    _check_model(fields, served)
    count = _read_count(fields, len(prompts), served)
    total = count * len(prompts)
    seed = reading.read_integer(fields, "seed", new_seed, -(1 << 63), (1 << 63) - 1)
    options = reading.read_object(fields, "stream_options")
    reading.refuse_fields(options, STREAM_OPTIONS, {}, inside="stream_options")
    streamed = reading.read_boolean(fields, "stream")
    if options and not streamed:
        raise RequestError('stream_options: expected "stream": true beside it', param="stream_options")
    settings = {
        "temperature": reading.read_number(fields, "temperature", 1.0, 0.0, MOST_TEMPERATURE),
        "top_p": reading.read_number(fields, "top_p", 1.0, 0.0, 1.0),
        "top_k": min(reading.read_integer(fields, "top_k", 0, 0), served.base.model.config.vocab_size),
        "min_p": reading.read_number(fields, "min_p", 0.0, 0.0, 1.0),
        "stop": reading.read_strings(fields, "stop", MOST_STOPS),
        "stop_ids": ends,
        "alternatives": alternatives,
    }
    keys = iter(row_keys(seed, total))
    rows = []
    for prompt in prompts:
        tokens = _fit_tokens(len(prompt), limit, served)
        rows += [Row(tuple(prompt), next(keys), tokens, **settings) for _ in range(count)]
    return Wanted(
        rows=tuple(rows),
        prompt_tokens=sum(map(len, prompts)),
        seed=seed,
        streamed=streamed,
        with_usage=reading.read_boolean(options, "include_usage", inside="stream_options"),
        logprobs=alternatives is not None,
    )


def _read_count(fields: Mapping[str, Any], prompts: int, served: Served) -> int:
    """Read `n`, the completions of each prompt; refuse more rows than a request may ask for."""
    count = reading.read_integer(fields, "n", 1, 1, served.most_rows)
    if count * prompts > served.most_rows:
        raise RequestError(
            f"n: {count} completions of {prompts} prompts are {count * prompts}, more than the "
            f"{served.most_rows} that a request may ask for; send several requests",
            param="n",
        )
    return count


def _check_model(fields: Mapping[str, Any], served: Served) -> None:
    """Refuse the name of another model."""
    name = fields.get("model", served.name)
    if name != served.name:
        raise RequestError(
            f"model: this server has {served.name!r}, got {name!r:.80}",
            status=404,
            param="model",
            code="model_not_found",
        )


def _fit_tokens(prompt: int, limit: int | None, served: Served) -> int:
    """Return the largest number of new tokens; refuse what does not fit into the context."""
    room = served.max_length - prompt
    new = 1 if limit is None else limit
    if room < new:
        asked = "" if limit is None else f" and max_tokens is {limit}"
        raise RequestError(
            f"this server holds {served.max_length} tokens of prompt and completion; the prompt has {prompt}"
            f"{asked}; {_advise(prompt, new, served)}",
            code="context_length_exceeded",
        )
    return room if limit is None else limit


def _advise(prompt: int, new: int, served: Served) -> str:
    """Say what makes room for a request: only what is enough, with the numbers."""
    context, room = served.base.model.config.max_position_embeddings, served.max_length - prompt
    ways = [f"ask for at most {count_noun(room, 'token')}"] if room > 0 else []
    if new < served.max_length:
        ways.append(f"shorten the prompt to {count_noun(served.max_length - new, 'token')}")
    if prompt + new <= context:
        ways.append(f"start the server with --max_length {prompt + new}")
    return ", or ".join(ways) or "shorten the prompt, and ask for fewer tokens"


def _refuse_huge(characters: int, served: Served) -> None:
    """Refuse a text that cannot fit into the context, before it is encoded.

    A character is at least a byte, so that fewer characters than this may still be too many tokens.
    """
    if characters > served.max_length * served.longest_token:
        raise RequestError(
            f"this server holds {served.max_length} tokens of prompt and completion; the prompt has "
            f"{characters} characters; shorten it",
            code="context_length_exceeded",
        )


def _count_characters(turn: Message, template: ChatTemplate) -> int:
    """Count the characters of a turn: of its content, and of the fields that the template reads."""
    read = [value for name, value in turn.fields if name in template.program.fields]
    return sum(len(text) for text in _strings_in([turn.content, read]))


def _strings_in(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings_in(item)


def _refuse_message_fields(number: int, message: Any, template: ChatTemplate) -> None:
    """Refuse a field of a message that neither this module nor the template reads, unless it is empty."""
    if not isinstance(message, dict) or not {"role", "from"} & message.keys():
        return  # `read_turns` decides
    has_content = any(message.get(name) is not None for name in ("content", "value"))
    read = MESSAGE_FIELDS if has_content else (*MESSAGE_FIELDS, "text")
    for name, value in message.items():
        if value and name not in read and name not in template.program.fields:
            raise RequestError(
                f"messages: {name} of message {number}: neither this server nor the chat template reads it; "
                f"{reading.suggest_field(name, MESSAGE_FIELDS)}",
                param="messages",
                code="unknown_parameter",
            )


def _read_prompts(fields: Mapping[str, Any], served: Served) -> list[list[int]]:
    """Read `prompt`: a text, ids, or a list of either; the text of control tokens is read as these tokens."""
    base, value = served.base, fields.get("prompt")
    is_list = isinstance(value, list)
    prompts = [value] if not is_list or (value and type(value[0]) is int) else value
    if not prompts:
        raise RequestError("prompt: expected a text, got an empty list", param="prompt")
    _read_count(fields, len(prompts), served)  # before any is encoded
    size = base.model.config.vocab_size
    read = []
    for prompt in prompts:
        if isinstance(prompt, str):
            _refuse_huge(len(prompt), served)
            try:
                ids = encode_prompt(base, prompt, special="all")
            except ValueError as error:
                raise RequestError(f"prompt: {error}", param="prompt") from None
        elif isinstance(prompt, list) and all(_is_id(i, size) for i in prompt):
            ids = prompt
        else:
            wrong = next(i for i in prompt if not _is_id(i, size)) if isinstance(prompt, list) else prompt
            raise RequestError(
                f"prompt: expected a text, a list of ids below {size}, or a list of either, got "
                f"{reading.quote(wrong)}",
                param="prompt",
            )
        if not ids:
            raise RequestError("prompt: it is empty; send at least one token", param="prompt")
        read.append(ids)
    return read


def _is_id(value: Any, size: int) -> bool:
    """Tell whether a JSON value is the id of a token."""
    return type(value) is int and 0 <= value < size
