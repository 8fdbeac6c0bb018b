"""Requests (`request`, `fields`, `errors`): read as OpenAI's API means them, or refused by the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from data_pipes.chat.chat import encode_chat
from data_pipes.chat.messages import Message
from pure import random
from stages.models.chat_template import stop_ids, template_of
from stages.serve import request
from stages.serve.errors import RequestError, error_body
from stages.serve.fields import parse_body
from stages.serve.request import Served, Wanted
from tests.stages.serve.small_engine import make_base

BASE = make_base()
TEMPLATE = template_of(None, BASE)
SERVED = Served(
    "small",
    BASE,
    TEMPLATE,
    "",
    max_length=64,
    longest_token=16,
    most_rows=8,
    text_ends=frozenset(stop_ids(BASE)),
    chat_ends=frozenset(stop_ids(BASE, TEMPLATE)),
)
HI: Any = [{"role": "user", "content": "Hi"}]


def read(fields: dict[str, Any], served: Served = SERVED) -> Wanted:
    """Read a request, by its form, with the seed 77 if it has none."""
    form = request.read_chat if "messages" in fields else request.read_text
    return form(parse_body(json.dumps(fields).encode()), served, 77)


def test_a_chat_is_rendered_by_the_template_and_ends_at_its_stop_tokens() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    wanted = read({"messages": turns, "max_completion_tokens": 7})
    messages = [Message("system", "Be brief."), Message("user", "ab")]
    expected = encode_chat(TEMPLATE, BASE.tokenizer, messages, add_generation_prompt=True).tokens.tolist()
    (row,) = wanted.rows
    assert list(row.prompt) == expected
    assert row.stop_ids == frozenset(stop_ids(BASE, TEMPLATE))
    assert (row.max_new_tokens, row.alternatives, wanted.seed, wanted.prompt_tokens) == (
        7,
        None,
        77,
        len(expected),
    )
    assert read({"messages": HI}).rows[0].max_new_tokens == 64 - len(read({"messages": HI}).rows[0].prompt)


def test_prompts_are_text_or_ids_and_each_row_has_its_own_key() -> None:
    wanted = read({"prompt": ["def", [1, 2]], "n": 2, "seed": 3})
    def_ids = tuple(BASE.tokenizer.encode("def"))
    assert [row.prompt for row in wanted.rows] == [def_ids, def_ids, (1, 2), (1, 2)]
    for index, row in enumerate(wanted.rows):
        assert torch.equal(row.key, random.fold_in(random.key(3), index))
    assert wanted.prompt_tokens == len(def_ids) + 2
    assert [row.max_new_tokens for row in wanted.rows] == [16] * 4
    assert read({"prompt": "<|im_end|>"}).rows[0].prompt == (stop_ids(BASE, TEMPLATE)[-1],)


@pytest.mark.parametrize(
    ("prompt", "asked", "ways"),
    [
        (10, 5000, "the prompt has 10 and max_tokens is 5000; ask for at most 54 tokens"),
        (
            60,
            10,
            "ask for at most 4 tokens, or shorten the prompt to 54 tokens, or start the server with --max_length 70",
        ),
        (
            64,
            None,
            "the prompt has 64; shorten the prompt to 63 tokens, or start the server with --max_length 65",
        ),
        (600, 10, "the prompt has 600 and max_tokens is 10; shorten the prompt to 54 tokens"),
        (600, 5000, "shorten the prompt, and ask for fewer tokens"),
    ],
)
def test_a_request_beyond_the_context_is_told_what_is_enough(
    prompt: int, asked: int | None, ways: str
) -> None:
    assert BASE.model.config.max_position_embeddings == 512
    with pytest.raises(RequestError, match="this server holds 64 tokens of prompt and completion") as raised:
        request._fit_tokens(prompt, asked, SERVED)
    assert str(raised.value).endswith(ways)


def test_settings_are_read() -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "min_p": 0.1,
        "stop": "x",
        "logprobs": 3,
        "seed": -1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    wanted = read({"prompt": "a", **fields})
    row = wanted.rows[0]
    assert (row.temperature, row.top_p, row.top_k, row.min_p, row.stop, row.alternatives) == (
        0.5,
        0.9,
        4,
        0.1,
        ("x",),
        3,
    )
    assert (wanted.seed, wanted.streamed, wanted.with_usage, wanted.logprobs) == (-1, True, True, True)
    assert read({"prompt": "a", "top_k": 2**70}).rows[0].top_k == 290  # all tokens
    chat = read({"messages": HI, "logprobs": True, "top_logprobs": 20, "stop": ["a", "b"]})
    assert (chat.rows[0].alternatives, chat.rows[0].stop) == (20, ("a", "b"))


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "seed": None, "n": None},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"]},
        {"messages": [{**HI[0], "name": "Ann", "audio": None, "annotations": [], "images": []}]},
        {"messages": [{"role": "user", "text": "Hi"}]},
        {"messages": [{"role": "user", "content": None, "text": "Hi"}]},
        {"messages": [{"from": "human", "value": None, "text": "Hi"}]},
        {
            "messages": [{**HI[0], "annotations": [{"url": "x" * 5000}]}]
        },  # it is not rendered, and not counted
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    ],
    ids=str,
)
def test_fields_that_change_nothing_pass(fields: dict[str, Any]) -> None:
    assert str(read({"messages": HI, **fields})) == str(read({"messages": HI}))


CHAT_ERRORS = (
    ({"messages": []}, "messages", "at least one"),
    ({"messages": "Hi"}, "messages", "a list of messages"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages", "turn 1: unknown role 'robot'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "'image_url'"),
    *(
        ({"messages": [{"role": "user", "content": "Hi", **field}]}, "messages", message)
        for field, message in (
            ({"images": ["x"]}, "images of message 1: neither this server nor the chat template reads it"),
            ({"contnet": "b"}, "did you mean 'content'"),
            ({"text": "b"}, "text of message 1"),
            ({"reasoning_content": "b"}, "reasoning_content of message 1"),
            ({"prefix": True}, "prefix of message 1"),
            ({"messages": "b"}, "messages of message 1"),  # a word of the template, and no field
        )
    ),
    ({"messages": HI * 65}, "messages", "the prompt has 65 messages"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "true or false",
    ),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "not supported"),
    ({"tempratura": 1}, "tempratura", "did you mean 'temperature'"),
    ({"echo": True}, "echo", "unknown field"),
    ({"temperature": 2.5}, "temperature", "0 to 2, got 2.5"),
    ({"temperature": "1"}, "temperature", 'a number, 0 to 2, got "1"'),
    ({"top_p": True}, "top_p", "a number"),
    ({"n": 9}, "n", "1 to 8, got 9"),
    ({"n": 1.5}, "n", "an integer"),
    ({"seed": 2**63}, "seed", "an integer"),
    ({"stop": ["a", ""]}, "stop", "none of them empty"),
    ({"stop": ["a"] * 17}, "stop", "up to 16"),
    ({"stream": 1}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", '"stream": true'),
    ({"stream": True, "stream_options": []}, "stream_options", "a JSON object"),
    (
        {"stream": True, "stream_options": {"include_usag": True}},
        "stream_options.include_usag",
        "'include_usage'",
    ),
    ({"top_logprobs": 3}, "top_logprobs", '"logprobs": true'),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_tokens": 60}, None, "64 tokens of prompt and completion; the prompt has"),
    ({"model": "other"}, "model", "'small', got 'other'"),
)


def test_a_content_in_many_parts_is_as_long_as_its_text() -> None:
    parts = [{"type": "text", "text": "a"}] * 40
    prompt = read({"messages": [{"role": "user", "content": parts}]}).rows[0].prompt
    assert prompt == read({"messages": [{"role": "user", "content": "a" * 40}]}).rows[0].prompt


def test_too_many_prompts_are_refused_before_any_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "encode_prompt", None)
    with pytest.raises(RequestError, match="9, more than the 8"):
        read({"prompt": ["a"] * 9})


@pytest.mark.parametrize(("fields", "param", "message"), CHAT_ERRORS, ids=lambda x: str(x)[:40])
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read({"messages": HI, **fields})
    assert message in str(caught.value)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "prompt: expected a text"),
        ({"prompt": []}, "an empty list"),
        ({"prompt": ""}, "prompt: it is empty"),
        ({"prompt": [[1, 999]]}, "ids below 290, or a list of either, got 999"),
        ({"prompt": [1, -1]}, "got -1"),
        ({"prompt": [1, True]}, "got true"),
        ({"prompt": {"a": 1}}, 'got {"a": 1}'),
        ({"prompt": ["a"] * 9}, "9, more than the 8"),
        ({"prompt": "a", "logprobs": 6}, "0 to 5"),
        ({"prompt": "a", "best_of": 2}, "best_of: not supported"),
        ({"prompt": "a", "suffix": "b"}, "suffix: not supported"),
        ({"prompt": "a" * 1025}, "the prompt has 1025 characters"),
        ({"prompt": "\ud800"}, "prompt: encode: text has .* half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
        ({"messages": [{"role": "user", "content": "a " * 999}]}, "characters; shorten it"),
        ({"messages": [{"from": "human", "value": "a " * 999}]}, "characters; shorten it"),
        ({"messages": [{"role": "user", "text": "a " * 999}]}, "characters; shorten it"),
    ],
    ids=str,
)
def test_a_wrong_prompt_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(fields)


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b'{"n": NaN}', b"\xff", b"[" * 100_000, b'{"a": 1} x', b'{"a": 1, "a": 2}']
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="must be a JSON object"):
        parse_body(body)


def test_a_null_among_the_options_of_a_stream_is_a_missing_field() -> None:
    fields = {"messages": HI, "stream": True, "stream_options": {"include_usage": None}}
    assert not read(fields).with_usage


def test_a_model_without_a_template_serves_plain_text() -> None:
    served = SERVED._replace(template=None, why="the model has no chat template")
    with pytest.raises(RequestError, match="no chat template; send plain text to /v1/completions"):
        read({"messages": HI}, served)
    assert len(read({"prompt": "a"}, served).rows) == 1


def test_a_message_that_quotes_invalid_unicode_can_be_sent() -> None:
    with pytest.raises(RequestError) as caught:
        read({"prompt": "a", "\ud800": 1})
    assert json.dumps(error_body(caught.value), ensure_ascii=False).encode()


def test_the_type_of_an_error_follows_its_status() -> None:
    types = {
        status: error_body(RequestError("", status=status))["error"]["type"] for status in (400, 429, 503)
    }
    assert types == {400: "invalid_request_error", 429: "rate_limit_error", 503: "server_error"}
