"""Read the columns of a row that hold messages, a prompt or a completion.

Two columns for the same part of a row must be equal, or the row is refused. One exception: `answer`, which
is often only the short result, is ignored if there is a `completion`, `output`, `response` or `solution`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipes.chat.messages import Messages
from data_pipes.rows.context import read_history
from data_pipes.rows.dialogue import read_dialogue_prompt
from data_pipes.rows.turns import RowError, make_turn, read_turns

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
"""Columns of complete conversations."""

PROMPT_COLUMNS = ("prompt", "instruction", "query", "question", "problem", "input")
"""Columns of a prompt. If there is an `instruction`, `input` and `context` are appended to it."""

COMPLETION_COLUMNS = ("completion", "output", "response", "solution", "answer")
"""Columns of a completion."""

REASONING_COLUMNS = ("reasoning_content", "thinking")
"""Columns of the completion's reasoning."""

SYSTEM_ROLES = ("system", "developer")


def read_message_columns(columns: Mapping[str, Any]) -> Messages | None:
    """Reads the messages of MESSAGE_COLUMNS; several such columns must be equal.

    Args:
        columns: columns of the row, without nulls.

    Returns:
        The turns, or None if there is no such column.

    Raises:
        RowError: if several such columns differ, or as `read_turns`.
    """
    conversations = {name: read_turns(columns[name]) for name in MESSAGE_COLUMNS if name in columns}
    if not conversations:
        return None
    first, messages = next(iter(conversations.items()))
    for name, other in conversations.items():
        refuse_difference(name, other, first, messages)
    return messages


def read_prompt_columns(columns: Mapping[str, Any]) -> Messages:
    """Reads a prompt from PROMPT_COLUMNS, after the earlier exchanges of `history`.

    Args:
        columns: columns of the row, with at least one of PROMPT_COLUMNS.

    Returns:
        The turns. A string is one user turn, or the turns of a dialogue that ends with the assistant's name
        ("Human: Hi\\n\\nAssistant:").

    Raises:
        RowError: if two columns differ, or there is a `context` without an `instruction`.

    Example:
        >>> row = {"instruction": "Add.", "input": "1 1", "history": [["Hi", "Hello"]]}
        >>> read_prompt_columns(row)[-1].content
        'Add.\\n\\n1 1'
    """
    inputs = ("input", "context") if "instruction" in columns else ()
    present = [name for name in PROMPT_COLUMNS if name in columns and name not in inputs]
    filled = [name for name in present if columns[name] not in ("", [])] or present
    first, value = filled[0], columns[filled[0]]
    for name in filled[1:]:
        if columns[name] != value:
            raise RowError(f"{first} and {name} are different prompts; delete one of the columns")
    context = columns.get("context")
    if not inputs and first != "prompt" and isinstance(context, str) and context.strip():
        raise RowError(
            f"context is supported only with instruction, got it with {first}; write it into {first}"
        )
    more = [columns[name] for name in inputs if columns.get(name)]
    if isinstance(value, str):
        dialogue = () if more else read_dialogue_prompt(value)
        prompt = dialogue or make_turn("user", value, *more)
    else:
        prompt = read_turns(value) + (make_turn("user", *more) if more else ())
    return read_history(columns) + prompt


def read_completion_columns(columns: Mapping[str, Any]) -> Messages:
    """Reads a completion from COMPLETION_COLUMNS, with its reasoning from REASONING_COLUMNS.

    Args:
        columns: columns of the row, with at least one of COMPLETION_COLUMNS.

    Returns:
        The turns. A string is one assistant turn; its field `reasoning_content` is the column of reasoning.

    Raises:
        RowError: if two columns of completions or of reasoning differ, or a column of reasoning belongs to
            several turns.

    Example:
        >>> read_completion_columns({"solution": "1 + 1 = 2", "answer": "2"})[0].content
        '1 + 1 = 2'
    """
    present = [name for name in COMPLETION_COLUMNS if name in columns]
    filled = [name for name in present if name != "answer"] or present
    first, value = filled[0], columns[filled[0]]
    for name in filled[1:]:
        if columns[name] != value:
            raise RowError(f"{first} and {name} are different completions; delete one of the columns")
    turns = read_text_or_turns(value, "assistant")
    reasoning = {name: columns[name] for name in REASONING_COLUMNS if columns.get(name)}
    if not reasoning:
        return turns
    if len(set(map(repr, reasoning.values()))) > 1:
        raise RowError(f"{' and '.join(reasoning)} differ; delete one of the columns")
    name, text = next(iter(reasoning.items()))
    if not isinstance(text, str) or len(turns) != 1:
        raise RowError(
            f"{name} must be a string, and the completion one turn; write the reasoning of several turns "
            "into the turns"
        )
    return (turns[0]._replace(fields=(*turns[0].fields, ("reasoning_content", text))),)


def read_text_or_turns(value: Any, role: str) -> Messages:
    """Reads a string as one turn of `role`, anything else as a list of turns.

    Raises:
        RowError: as `read_turns`.
    """
    return make_turn(role, value) if isinstance(value, str) else read_turns(value)


def turn_texts(messages: Messages) -> list[tuple[str, str]]:
    """Returns (role, stripped text) of each turn, the parts by which turns are compared."""
    return [(message.role, (message.content or "").strip()) for message in messages]


def drop_system(messages: Messages) -> Messages:
    """Returns the turns without a leading system turn."""
    return messages[1:] if messages and messages[0].role in SYSTEM_ROLES else messages


def refuse_difference(column: str, messages: Messages, other: str, other_messages: Messages) -> None:
    """Refuses two columns whose turns differ.

    Raises:
        RowError: if roles or texts differ.
    """
    if turn_texts(messages) != turn_texts(other_messages):
        raise RowError(f"{column} and {other} differ; delete one of them")
