"""`rows.columns`: turns, questions and answers are read from the columns of a row."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes.chat.messages import Message
from data_pipes.rows.columns import (
    drop_system,
    read_completion_columns,
    read_message_columns,
    read_prompt_columns,
    read_text_or_turns,
    turn_texts,
)
from data_pipes.rows.turns import RowError

USER, ASSISTANT, SYSTEM = Message("user", "Hi"), Message("assistant", "Hello"), Message("system", "Be brief.")
TURN = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi"},
        {"prompt": [TURN]},
        {"input": "Hi"},
        {"instruction": "Hi", "input": ""},
        {"query": "Hi", "x": 1},
        {"prompt": "Hi", "question": "Hi"},
        {"prompt": "", "question": "Hi"},
        {"prompt": "Hi", "context": "metadata"},
    ],
)
def test_a_prompt_is_read_from_every_column_name(row: dict[str, Any]) -> None:
    assert read_prompt_columns(row) == (USER,)


def test_a_prompt_includes_its_input_context_and_history() -> None:
    assert read_prompt_columns({"instruction": "Add", "input": "1", "context": "2"}) == (
        Message("user", "Add\n\n1\n\n2"),
    )
    assert read_prompt_columns({"prompt": "And?", "history": [["Hi", "Hello"]]}) == (
        USER,
        ASSISTANT,
        Message("user", "And?"),
    )
    assert read_prompt_columns({"prompt": "Human: Hi\n\nAssistant:"}) == (USER,)


def test_a_completion_is_read_from_every_column_name() -> None:
    assert (
        read_completion_columns({"answer": "Hello"})
        == read_completion_columns({"answer": "4", "output": "Hello"})
        == (ASSISTANT,)
    )
    assert read_completion_columns({"output": "Hello", "response": "Hello"}) == (ASSISTANT,)


@pytest.mark.parametrize(
    ("read", "row", "words"),
    [
        (read_prompt_columns, {"prompt": "Hi", "query": "Ho"}, "prompt and query are different prompts"),
        (
            read_prompt_columns,
            {"question": "Hi", "context": "Numbers"},
            "context is supported only with instruction, got it with question",
        ),
        (read_prompt_columns, {"prompt": 3}, "expected a list of messages, got a int"),
        (
            read_completion_columns,
            {"output": "a", "completion": "b"},
            "completion and output are different completions",
        ),
        (
            read_message_columns,
            {"messages": [TURN], "conversations": []},
            "conversations and messages differ",
        ),
    ],
)
def test_contradictory_columns_are_refused(read: Any, row: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        read(row)


def test_turns_are_read_from_lists_dicts_and_texts() -> None:
    assert read_message_columns({}) is None
    assert read_message_columns({"conversation": TURN}) == read_text_or_turns([TURN], "assistant") == (USER,)
    assert read_text_or_turns("Hello", "assistant") == (ASSISTANT,)
    assert turn_texts((Message("user", None), Message("user", " x "))) == [("user", ""), ("user", "x")]
    assert drop_system((SYSTEM, USER)) == drop_system((USER,)) == (USER,)
    assert drop_system(()) == ()


def test_thoughts_of_an_answer_are_read_or_refused() -> None:
    assert read_completion_columns({"answer": "2", "thinking": "1 + 1"})[0].fields == (
        ("reasoning_content", "1 + 1"),
    )
    for columns, message in (
        ({"answer": "2", "thinking": "a", "reasoning_content": "b"}, "thinking differ"),
        ({"answer": "2", "thinking": ["a"]}, "thinking must be a string"),
        (
            {"completion": [{"role": "assistant", "content": "2"}, TURN], "thinking": "a"},
            "the completion one turn",
        ),
    ):
        with pytest.raises(RowError, match=message):
            read_completion_columns(columns)
