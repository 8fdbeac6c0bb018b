"""`rows.turns`: turns are read in every form data sets use (`tests/outside/rows.py` tests published rows)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from data_pipes.chat.chat import CHATML, chat_template, render
from data_pipes.chat.messages import Message
from data_pipes.rows.columns import COMPLETION_COLUMNS, MESSAGE_COLUMNS, PROMPT_COLUMNS
from data_pipes.rows.turns import (
    CALL_ROLES,
    MASKED_KEYS,
    ROLE_NAMES,
    TRAINED_KEYS,
    RowError,
    check_text,
    drop_null_entries,
    make_turn,
    read_turns,
)
from tests.outside.chat_structures import OWN


@pytest.mark.parametrize(("name", "role"), [*ROLE_NAMES.items(), ("Human", "user"), (" GPT ", "assistant")])
def test_a_role_is_read_from_every_name(name: str, role: str) -> None:
    assert read_turns([{"role": name, "content": "x"}]) == (Message(role, "x"),)
    assert read_turns([{"from": name, "value": "x"}]) == (Message(role, "x"),)


def test_other_fields_of_a_turn_are_kept_in_order() -> None:
    turn = {
        "role": "tool",
        "content": "2",
        "tool_call_id": "c",
        "name": "add",
        "extra": {"a": [1]},
        "empty": "",
    }
    assert read_turns(turn)[0].fields == (("tool_call_id", "c"), ("name", "add"), ("extra", {"a": [1]}))


def test_null_fields_are_ignored() -> None:
    turn = {"role": "user", "content": "x", "from": None, "value": None, "tool_calls": None, "weight": None}
    assert read_turns([turn]) == (Message("user", "x"),)
    assert drop_null_entries((1, {"a": None})) == [1, {}]


def test_two_keys_with_the_same_value_are_one() -> None:
    turn = {"role": "user", "from": "human", "content": "x", "value": "x", "text": "y"}
    assert read_turns([turn]) == (Message("user", "x", (("text", "y"),)),)
    assert read_turns([{"role": "prompter", "text": "x"}]) == (Message("user", "x"),)


CALL = {"name": "f", "arguments": {"a": None, "b": 1}}


@pytest.mark.parametrize(
    ("calls", "arguments"),
    [
        ([CALL], {"b": 1}),
        (CALL, {"b": 1}),
        ('[{"name": "f", "arguments": {}}]', {}),
        (['{"name": "f"}'], {}),
        ([{"function": {"name": "f", "arguments": '{"a": null}'}}], {"a": None}),
        ([{"function": {"name": "f", "arguments": " "}}], {}),
    ],
)
def test_tool_calls_are_read_from_every_form(calls: Any, arguments: dict) -> None:
    (message,) = read_turns([{"role": "assistant", "content": "", "tool_calls": calls}])
    (call,) = dict(message.fields)["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": arguments}
    assert message.content == ""


@pytest.mark.parametrize("key", ["weight", "train", "training", "loss"])
@pytest.mark.parametrize(("value", "trained"), [(0, False), (1.0, True), (False, False), (True, True)])
def test_a_weight_sets_whether_a_turn_is_trained(key: str, value: float, trained: bool) -> None:
    assert read_turns([{"role": "assistant", "content": "x", key: value}]) == (
        Message("assistant", "x", (), trained),
    )


def test_two_turns_of_the_user_stay_two_turns_and_the_template_decides() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "text": "c"},
    ]
    messages = read_turns(turns)
    assert messages == (Message("user", "a"), Message("user", "b"), Message("assistant", "c"))
    text = render(chat_template(CHATML), messages)
    assert [line for line in text.splitlines() if "user" in line] == ["<|im_start|>user"] * 2
    with pytest.raises(ValueError, match="roles must alternate"):
        render(chat_template(OWN["Mistral"], bos_token="<s>", eos_token="</s>"), messages)


def test_the_documentation_lists_every_name() -> None:
    page = (Path(__file__).parents[3] / "docs" / "stages.md").read_text(encoding="utf-8")
    listed = set(
        re.findall(r"`(\w+)`", page.partition("All names that a row may have")[2].partition("Other keys")[0])
    )
    columns = {*MESSAGE_COLUMNS, *PROMPT_COLUMNS, *COMPLETION_COLUMNS}
    assert listed >= {
        *ROLE_NAMES,
        *CALL_ROLES,
        *TRAINED_KEYS,
        *MASKED_KEYS,
        *columns,
        "content",
        "value",
        "text",
    }


BAD = {
    "no mapping": ("Hi", "expected a message with role and content, got a str"),
    "no role": ({"content": "x"}, r"expected a message with role and content \(or from and value\), got content"),
    "no content": ({"role": "user", "content": None, "name": "x"}, r"got role, content \(null\), name"),
    "a misspelled content": ({"role": "user", "contents": "x"}, "got 'contents'; did you mean content"),
    "a number": ({"role": "user", "content": 3}, "the content of the user's turn must be a string, got int"),
    "two roles": ({"role": "user", "from": "gpt", "content": "x"}, "role is 'user' and from is 'gpt'"),
    "roles that are lists": ({"role": [], "from": [], "content": "x"}, r"unknown role '\[\]'"),
    "two contents": ({"role": "user", "content": "x", "value": "y"}, "content is 'x' and value is 'y'"),
    "a part without text": ({"role": "user", "content": [{"type": "text"}]}, "has a part of type 'text'"),
    "an image": ({"role": "user", "content": [{"type": "image_url"}]}, "has a part of type 'image_url'"),
    "a lone surrogate": ({"role": "user", "content": "\ud800"}, "a lone surrogate"),
    "a lone surrogate in a field": ({"role": "user", "content": "x", "a": [{"\udfff": 1}]}, "a lone surrogate"),
    "a weight": ({"role": "assistant", "content": "x", "weight": 0.5}, "weight must be 0 or 1 .* got 0.5"),
    "a weight as text": ({"role": "assistant", "content": "x", "train": "no"}, "train must be 0 or 1 .* got 'no'"),
    "two weights": ({"role": "assistant", "content": "x", "weight": 1, "masked": True}, "weight and masked contradict"),
    "parts of a turn": ({"role": "assistant", "content": "x", "train_detail": [{}]}, "train_detail is not supported"),
    "a trained user turn": ({"role": "user", "content": "x", "loss": True}, "loss is set on a turn of the user"),
    "a call without a name": ({"role": "assistant", "tool_calls": [{}]}, "a function call with name and arg"),
    "a call that is a number": ({"role": "assistant", "tool_calls": 3}, "a function call with name and arg"),
    "arguments as a list": ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": []}]}, "must be a mapping"),
    "calls of two kinds": ({"role": "assistant", "tool_calls": [CALL], "function_call": CALL}, "delete one of them"),
    "a call that is no JSON": ({"from": "function_call", "value": "add(1)"}, "expected tool_calls as a list"),
}  # fmt: skip


@pytest.mark.parametrize("key", ["context", "contents", "content_id", 3])
def test_a_turn_with_tool_calls_may_have_any_other_key(key: Any) -> None:
    (turn,) = read_turns([{"role": "assistant", "content": None, "tool_calls": [CALL], key: "x"}])
    assert dict(turn.fields)[key] == "x"


@pytest.mark.parametrize(("turn", "words"), BAD.values(), ids=BAD)
def test_a_bad_turn_is_named(turn: Any, words: str) -> None:
    good = {"role": "user", "content": "x"}
    with pytest.raises(RowError, match=f"^turn 2: .*{words}"):
        read_turns([good, turn])


def test_text_parts_are_joined_and_lone_surrogates_refused() -> None:
    assert make_turn("user", "a", [{"type": "text", "text": "b"}]) == (Message("user", "a\n\nb"),)
    with pytest.raises(RowError, match="x has a lone surrogate"):
        check_text({"a": ["\ud800"]}, "x")
