"""Read the columns of a row that hold turns, questions and answers.

Two columns that would be the same part of a row must say the same, or the row is refused. One exception:
`answer`, often the short result, gives way to a written-out `completion`, `output`, `response` or `solution`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipes.chat.messages import Messages
from data_pipes.rows.context import read_history
from data_pipes.rows.dialogue import read_dialogue_prompt
from data_pipes.rows.turns import RowError, make_turn, read_turns

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
"""Columns of turns."""

PROMPT_COLUMNS = ("prompt", "instruction", "query", "question", "problem", "input")
"""Columns of what is asked; `input` and `context` beside `instruction` belong to it."""

COMPLETION_COLUMNS = ("completion", "output", "response", "solution", "answer")
"""Columns of what is answered."""

REASONING_COLUMNS = ("reasoning_content", "thinking")
"""Columns of what the assistant thought before it answered."""

SYSTEM_ROLES = ("system", "developer")


def read_message_columns(columns: Mapping[str, Any]) -> Messages | None:
    """Reads the columns of TURNS, which must be equal if there are several.

    Args:
        columns: of the row, nulls left out.

    Returns:
        The turns, or None if there is no such column.

    Raises:
        RowError: if they differ, or as `read_turns`.
    """
    found = [(column, read_turns(columns[column])) for column in MESSAGE_COLUMNS if column in columns]
    for column, other in found[1:]:
        refuse_difference(column, other, found[0][0], found[0][1])
    return found[0][1] if found else None


def read_prompt_columns(columns: Mapping[str, Any]) -> Messages:
    """Reads what is asked: one of QUESTIONS, after the earlier exchanges of `history`.

    Args:
        columns: of the row, at least one of QUESTIONS among them.

    Returns:
        Turns. A text is one turn of the user; a prompt that ends where the assistant is to speak ("Human:
        Hi\\n\\n Assistant:") is cut into its turns.

    Raises:
        RowError: if two columns ask different things, or a `context` stands beside something else than
            `instruction`.

    Example:
        >>> read_prompt_columns({"instruction": "Add.", "input": "1 1", "history": [["Hi", "Hello"]]})[-1].content
        'Add.\\n\\n1 1'
    """
    added = ("input", "context") if "instruction" in columns else ()
    named = [column for column in PROMPT_COLUMNS if column in columns and column not in added]
    full = [column for column in named if columns[column] not in ("", [])] or named
    value = columns[full[0]]
    if other := [column for column in full[1:] if columns[column] != value]:
        raise RowError(f"{full[0]} and {other[0]} ask different things; leave one of the columns out")
    context = columns.get("context")
    if not added and full[0] != "prompt" and isinstance(context, str) and context.strip():
        raise RowError(f"where context belongs in {full[0]} is not defined; write it into {full[0]}")
    more = [columns[column] for column in added if columns.get(column)]
    if isinstance(value, str):
        asked = (() if more else read_dialogue_prompt(value)) or make_turn("user", value, *more)
    else:
        asked = read_turns(value) + (make_turn("user", *more) if more else ())
    return read_history(columns) + asked


def read_completion_columns(columns: Mapping[str, Any]) -> Messages:
    """Reads what is answered: one of ANSWERS, with its thoughts.

    Args:
        columns: of the row, at least one of ANSWERS among them.

    Returns:
        Turns; a text is one turn of the assistant, whose thoughts are the column of THOUGHTS.

    Raises:
        RowError: if two columns are different answers or thoughts, or thoughts stand beside an answer of
            several turns.

    Example:
        >>> read_completion_columns({"solution": "1 + 1 = 2", "answer": "2"})[0].content
        '1 + 1 = 2'
    """
    named = [column for column in COMPLETION_COLUMNS if column in columns]
    full = [column for column in named if column != "answer"] or named
    if other := [column for column in full[1:] if columns[column] != columns[full[0]]]:
        raise RowError(f"{full[0]} and {other[0]} are different answers; leave one of the columns out")
    said = read_text_or_turns(columns[full[0]], "assistant")
    thoughts = {column: columns[column] for column in REASONING_COLUMNS if columns.get(column)}
    if not thoughts:
        return said
    if len(set(map(repr, thoughts.values()))) > 1:
        raise RowError(f"{' and '.join(thoughts)} are different thoughts; leave one of the columns out")
    name, text = next(iter(thoughts.items()))
    if not isinstance(text, str) or len(said) != 1:
        raise RowError(
            f"{name} must be a text beside an answer of one turn; write thoughts into the turns they precede"
        )
    return (said[0]._replace(fields=(*said[0].fields, ("reasoning_content", text))),)


def read_text_or_turns(found: Any, role: str) -> Messages:
    """Reads a text as one turn of `role`, or turns.

    Raises:
        RowError: as `read_turns`.
    """
    return make_turn(role, found) if isinstance(found, str) else read_turns(found)


def turn_texts(messages: Messages) -> list[tuple[str, str]]:
    """Returns roles and texts, white space around them left off, by which turns are compared."""
    return [(message.role, (message.content or "").strip()) for message in messages]


def drop_system(messages: Messages) -> Messages:
    """Returns the turns without a system turn at the beginning."""
    return messages[1:] if messages and messages[0].role in SYSTEM_ROLES else messages


def refuse_difference(column: str, found: Messages, other: str, wanted: Messages) -> None:
    """Refuses turns that contradict others.

    Raises:
        RowError: if roles or texts differ.
    """
    if turn_texts(found) != turn_texts(wanted):
        raise RowError(f"{column} and {other} say different things; leave one of them out")
