"""`rows.context`: tools, template arguments, system prompt and history are read from a row."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes.chat.messages import PLAIN, Context, Message
from data_pipes.rows.context import drop_nulls, prepend_system, read_context, read_history
from data_pipes.rows.turns import RowError

FUNCTION = {"name": "f", "parameters": {"a": None, "b": 1}}
WRAPPED = {"type": "function", "function": {"name": "f", "parameters": {"b": 1}}}
USER, SYSTEM = Message("user", "Hi"), Message("system", "Be brief.")


@pytest.mark.parametrize(
    ("row", "context"),
    [
        ({"tools": []}, PLAIN),
        ({"tools": ""}, PLAIN),
        ({"tools": "null"}, PLAIN),
        ({"tools": WRAPPED}, Context((WRAPPED,))),
        ({"tools": '[{"type": "x"}]'}, Context(({"type": "x"},))),
        ({"functions": [FUNCTION]}, Context((WRAPPED,))),
        ({"functions": [WRAPPED]}, Context((WRAPPED,))),
        ({"chat_template_kwargs": {"a": 1, "b": None}}, Context((), (("a", 1),))),
        ({"chat_template_kwargs": '{"a": 1}'}, Context((), (("a", 1),))),
        ({"images": [], "image": "", "id": 7, "score": 0.5, "source": "x"}, PLAIN),
    ],
)
def test_tools_and_template_arguments_are_read(row: dict[str, Any], context: Context) -> None:
    assert read_context(row) == context


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tools": [3]}, "tools must be JSON schemas of functions, got 3"),
        ({"tools": ["search"]}, "tools must be JSON, got 'search'"),
        ({"tools": [WRAPPED], "functions": [FUNCTION]}, "the row has tools and functions"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be a mapping, got a list"),
        ({"chat_template_kwargs": "{"}, "chat_template_kwargs must be JSON"),
        ({"tools": [{"name": "\ud800"}]}, "a lone surrogate"),
        ({"audio": b"RIFF"}, "only text is supported, got the column audio"),
    ],
)
def test_a_bad_context_is_refused(row: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        read_context(row)


def test_a_system_prompt_is_prepended_once() -> None:
    for column in ("system", "system_prompt", "system_message"):
        assert prepend_system({column: "Be brief."}, (USER,)) == (SYSTEM, USER)
        assert prepend_system({column: " Be brief.\n"}, (SYSTEM, USER)) == (SYSTEM, USER)
    assert prepend_system({"system": "  "}, (USER,)) == (USER,)
    assert prepend_system({"system": "Be brief.", "system_prompt": "Be brief."}, (USER,)) == (SYSTEM, USER)
    for row in ({"system": "Other"}, {"system": ["x"]}, {"system": "Be brief.", "system_prompt": "Other"}):
        with pytest.raises(RowError):
            prepend_system(row, (SYSTEM, USER))


def test_history_is_read_as_turns() -> None:
    answer = Message("assistant", "Hello")
    for history in (
        [["Hi", "Hello"]],
        '[["Hi", "Hello"]]',
        [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Hello"}],
    ):
        assert read_history({"history": history}) == (USER, answer)
    assert read_history({}) == read_history({"history": []}) == ()
    for history in ([["Hi"]], [3], 3, [["Hi", 3]]):
        with pytest.raises(RowError):
            read_history({"history": history})


def test_null_columns_are_dropped() -> None:
    assert drop_nulls({"a": float("nan"), "b": 0, "c": [None], "d": None}) == {"b": 0, "c": [None]}
