"""Columns that hold turns, questions and answers."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes.chat.messages import Message
from data_pipes.rows.columns import (
    as_turns,
    contents,
    read_answer,
    read_question,
    read_turn_columns,
    without_system,
)
from data_pipes.rows.turns import RowError

U, A, S = Message("user", "Hi"), Message("assistant", "Hello"), Message("system", "Be brief.")
TURN = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    "row",
    [{"prompt": "Hi"}, {"prompt": [TURN]}, {"input": "Hi"}, {"instruction": "Hi", "input": ""}, {"query": "Hi", "x": 1},
     {"prompt": "Hi", "question": "Hi"}, {"prompt": "", "question": "Hi"}, {"prompt": "Hi", "context": "metadata"}],
)  # fmt: skip
def test_questions(row: dict[str, Any]) -> None:
    assert read_question(row) == (U,)


def test_a_question_has_its_input_and_what_was_said_before() -> None:
    assert read_question({"instruction": "Add", "input": "1", "context": "2"}) == (
        Message("user", "Add\n\n1\n\n2"),
    )
    assert read_question({"prompt": "And?", "history": [["Hi", "Hello"]]}) == (U, A, Message("user", "And?"))
    assert read_question({"prompt": "Human: Hi\n\nAssistant:"}) == (U,)


def test_answers() -> None:
    assert read_answer({"answer": "Hello"}) == read_answer({"answer": "4", "output": "Hello"}) == (A,)
    assert read_answer({"output": "Hello", "response": "Hello"}) == (A,)


@pytest.mark.parametrize(
    ("read", "row", "words"),
    [
        (read_question, {"prompt": "Hi", "query": "Ho"}, "prompt and query ask different things"),
        (
            read_question,
            {"question": "Hi", "context": "Numbers"},
            "where context belongs in question is not defined",
        ),
        (read_question, {"prompt": 3}, "expected a list of messages, got a int"),
        (read_answer, {"output": "a", "completion": "b"}, "completion and output are different answers"),
        (
            read_turn_columns,
            {"messages": [TURN], "conversations": []},
            "conversations and messages say different",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(read: Any, row: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        read(row)


def test_turns() -> None:
    assert read_turn_columns({}) is None
    assert read_turn_columns({"conversation": TURN}) == as_turns([TURN], "assistant") == (U,)
    assert as_turns("Hello", "assistant") == (A,)
    assert contents((Message("user", None), Message("user", " x "))) == [("user", ""), ("user", "x")]
    assert without_system((S, U)) == without_system((U,)) == (U,)
    assert without_system(()) == ()


def test_thoughts_of_an_answer_are_kept_or_refused() -> None:
    assert read_answer({"answer": "2", "thinking": "1 + 1"})[0].fields == (("reasoning_content", "1 + 1"),)
    for columns, message in (
        ({"answer": "2", "thinking": "a", "reasoning_content": "b"}, "different thoughts"),
        ({"answer": "2", "thinking": ["a"]}, "thinking must be a text"),
        (
            {"completion": [{"role": "assistant", "content": "2"}, TURN], "thinking": "a"},
            "answer of one turn",
        ),
    ):
        with pytest.raises(RowError, match=message):
            read_answer(columns)
