"""`rows.records`: rows of every form are read into one schema; a row that cannot be read is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.chat.messages import Conversation, Message, Preference, Prompt, Unpaired
from data_pipes.rows.records import read_conversations, read_preferences, read_prompts, read_unpaired
from data_pipes.types import BadRow, Row

QUESTION, ANSWER = Message("user", "1 + 1?"), Message("assistant", "2")
TURNS = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    "values",
    [
        {"messages": TURNS},
        {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]},
        {"conversations": TURNS},
        {"instruction": "1 + 1?", "output": "2"},
        {"instruction": "1 + 1?", "input": "", "output": "2", "text": "all of it"},
        {"instruction": "1 + 1?", "input": None, "output": "2"},
        {"prompt": "1 + 1?", "completion": "2"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"question": "1 + 1?", "answer": "2", "id": 7},
        {"messages": None, "prompt": "1 + 1?", "completion": "2"},
    ],
)
def test_a_conversation_is_read_from_every_form(values: dict[str, Any]) -> None:
    assert list(read_conversations([Row(values, "a:1")])) == [Conversation((QUESTION, ANSWER), "a:1")]


def test_alpaca_joins_instruction_and_input() -> None:
    (found,) = read_conversations([Row({"instruction": "Add.", "input": "1 1", "output": "2"}, "a:1")])
    assert found.messages == (Message("user", "Add.\n\n1 1"), ANSWER)


def test_system_and_tool_turns_are_kept() -> None:
    roles = ["system", "user", "assistant", "tool", "assistant"]
    (found,) = read_conversations(
        [Row({"messages": [{"role": role, "content": role} for role in roles]}, "a:1")]
    )
    assert [m.role for m in found.messages] == roles
    names = ("system", "human", "gpt", "observation", "gpt")
    sharegpt = [{"from": name, "value": name} for name in names]
    (found,) = read_conversations([Row({"conversations": sharegpt}, "a:1")])
    assert [m.role for m in found.messages] == roles


WRONG_ANSWER = {"role": "assistant", "content": "3"}


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "1 + 1?", "chosen": "2", "rejected": "3"},
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [WRONG_ANSWER]},
        {"chosen": TURNS, "rejected": [TURNS[0], WRONG_ANSWER]},
        {"prompt": "1 + 1?", "chosen": TURNS, "rejected": [TURNS[0], WRONG_ANSWER]},
    ],
)
def test_a_preference_is_read_from_every_form(values: dict[str, Any]) -> None:
    expected = Preference((QUESTION,), (ANSWER,), (Message("assistant", "3"),), "a:1")
    assert list(read_preferences([Row(values, "a:1")])) == [expected]


def test_an_implicit_prompt_is_the_shared_turns_up_to_the_last_question() -> None:
    shared = [*TURNS, {"role": "user", "content": "And 2 + 2?"}]
    sides = {"chosen": [*shared, {"role": "assistant", "content": "4"}], "rejected": [*shared, WRONG_ANSWER]}
    (found,) = read_preferences([Row(sides, "a:1")])
    assert found.prompt == (QUESTION, ANSWER, Message("user", "And 2 + 2?"))
    unequal_lengths = {"chosen": TURNS, "rejected": [*TURNS, *shared[2:], WRONG_ANSWER]}
    (found,) = read_preferences([Row(unequal_lengths, "a:1")])
    assert found.prompt == (QUESTION,)
    assert found.chosen == (ANSWER,)


@pytest.mark.parametrize(
    ("label", "desirable"),
    [
        *((x, True) for x in (True, 1, 1.0, "true", "True", "TRUE", "1", " 1 ")),
        *((x, False) for x in (False, 0, 0.0, "false", "False", "0")),
    ],
)
def test_an_unpaired_row_is_read_with_every_label(label: Any, desirable: bool) -> None:
    """Labels in CSV files are strings."""
    row = Row({"prompt": "1 + 1?", "completion": "2", "label": label}, "a:1")
    assert list(read_unpaired([row])) == [Unpaired((QUESTION,), (ANSWER,), desirable, "a:1")]


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "1 + 1?", "answer": "2"},
        {"prompt": TURNS[:1]},
        {"messages": TURNS[:1]},
        {"messages": TURNS},
        {"question": "1 + 1?", "answer": "2"},
    ],
)
def test_prompts_keep_the_row(values: dict[str, Any]) -> None:
    assert list(read_prompts([Row(values, "a:1")])) == [Prompt((QUESTION,), values, "a:1")]


UNKNOWN_ROLE = [{"role": "bot", "content": "Hi"}]


@pytest.mark.parametrize(
    ("read", "values", "words"),
    [
        (read_conversations, {"text": "a", "url": "b"}, "expected the columns messages; .* got text, url"),
        (read_conversations, {}, r"got \(none\)"),
        (
            read_conversations,
            {"messages": UNKNOWN_ROLE},
            "turn 1: unknown role 'bot'; the roles are system, developer, user, ass",
        ),
        (read_conversations, {"messages": TURNS[:1]}, "no turn of the assistant"),
        (read_conversations, {"messages": []}, "no turn of the assistant"),
        (
            read_conversations,
            {"messages": "Hi"},
            "expected a list of messages, or the same as JSON text, got 'Hi'",
        ),
        (read_conversations, {"messages": 3}, "expected a list of messages, got a int"),
        (read_conversations, {"messages": ["Hi"]}, "expected a message with role and content, got a str"),
        (read_conversations, {"messages": [{"role": "user"}]}, r"\(or from and value\), got role"),
        (
            read_conversations,
            {"messages": [{"role": "user", "content": 3}]},
            "the user's turn must be a string, got int",
        ),
        (read_conversations, {"instruction": "a", "output": None}, r"got instruction, output \(null\)"),
        (read_conversations, {"question": "a", "answer": "\ud800"}, "a lone surrogate"),
        (read_preferences, {"chosen": "a"}, "expected the columns chosen and rejected.* got chosen"),
        (read_preferences, {"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are equal"),
        (read_preferences, {"prompt": "", "chosen": "b", "rejected": "c"}, "the prompt is empty"),
        (read_preferences, {"chosen": "b", "rejected": "c"}, "the prompt is empty"),
        (
            read_preferences,
            {"prompt": "a", "chosen": TURNS[:1], "rejected": "c"},
            "chosen must end with a turn of the ass",
        ),
        (
            read_preferences,
            {"prompt": "a", "chosen": "b", "rejected": []},
            "rejected must end with a turn of the assist",
        ),
        (
            read_unpaired,
            {"prompt": "a", "completion": "b"},
            "columns prompt, completion and label; got prompt, completion",
        ),
        (read_unpaired, {"prompt": "a", "completion": "b", "label": "good"}, r"true or false .* got 'good'"),
        (read_unpaired, {"prompt": "a", "completion": "b", "label": 2}, "true or false .* got 2"),
        (read_unpaired, {"prompt": "a", "completion": "b", "label": float("nan")}, r"got .*, label \(null\)"),
        (
            read_unpaired,
            {"prompt": "a", "completion": TURNS[:1], "label": 1},
            "completion must end with a turn",
        ),
        (read_unpaired, {"prompt": "", "completion": "b", "label": 1}, "the prompt is empty"),
        (read_prompts, {"text": "a"}, "columns messages or prompt, instruction, .* got text"),
        (read_prompts, {"prompt": ""}, "the prompt is empty"),
        (read_prompts, {"messages": TURNS[1:]}, "the prompt is empty"),
    ],
)
def test_a_bad_row_is_named_and_skipped(read: Callable, values: dict[str, Any], words: str) -> None:
    good = {"prompt": "1 + 1?", "completion": "2", "chosen": "2", "rejected": "3", "label": True}
    rows = [Row(values, "a:1"), Row(good, "a:2")]
    with pytest.raises(ValueError, match=f"a:1: .*{words}.*on_bad"):
        next(read(rows))
    bad: list[BadRow] = []
    assert [found.name for found in read(rows, on_bad=bad.append)] == ["a:2"]
    assert [row.name for row in bad] == ["a:1"]


COLUMNS = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "label",
    "instruction",
    "input",
    "output",
    "question",
    "answer",
    "system",
    "history",
    "tools",
    "functions",
    "chat_template_kwargs",
    "text",
    "context",
    "preferred_output",
    "non_preferred_output",
)
KEYS = (
    "role",
    "content",
    "from",
    "value",
    "weight",
    "tool_calls",
    "function_call",
    "function",
    "name",
    "arguments",
    "type",
    "text",
)
WORDS = (
    "user",
    "assistant",
    "gpt",
    "system",
    "tool",
    "function_call",
    "text",
    "x",
    "",
    "{}",
    "[]",
    "Human: a\n\nAssistant: b",
    "\ud800",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.floats()
    | st.sampled_from(ANSWER)
    | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400)
@given(
    st.sampled_from([read_conversations, read_preferences, read_unpaired, read_prompts]),
    st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5),
)
def test_any_row_is_read_or_refused_in_one_line(read: Callable, values: dict[str, Any]) -> None:
    bad: list[BadRow] = []
    found = list(read([Row(values, "a:1")], on_bad=bad.append))
    assert len(found) + len(bad) == 1
    assert all("\n" not in row.reason for row in bad)


def test_rows_are_read_lazily() -> None:
    def endless() -> Any:
        while True:
            yield Row({"question": "1 + 1?", "answer": "2"}, "a:1")

    assert next(read_conversations(endless())).messages == (QUESTION, ANSWER)


def test_the_turns_of_a_separate_prompt_column_are_counted_as_prompt() -> None:
    prompt = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "It is"}]
    row = Row(
        {"system": "Be brief.", "prompt": prompt, "completion": [{"role": "assistant", "content": " 2."}]},
        "n",
    )
    found = next(read_conversations([row]))
    assert (found.prompt, len(found.messages)) == (3, 4)
    assert next(read_conversations([Row({"messages": prompt}, "n")])).prompt == 0


def test_a_row_with_a_refusal_is_refused() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "refusal": "No."}]
    with pytest.raises(ValueError, match="no chat template renders `refusal`"):
        next(read_conversations([Row({"messages": turns}, "a:1")]))
    turns[1] |= {"content": "Hello", "refusal": None}
    assert next(read_conversations([Row({"messages": turns}, "a:1")])).messages[1].content == "Hello"
