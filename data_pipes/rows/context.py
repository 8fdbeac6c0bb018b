"""Read the columns of a row besides its turns: tools, template variables, a system prompt, earlier exchanges.

    tools, functions                        JSON schemas of the functions that the assistant may call
    chat_template_kwargs                    variables for the chat template (TRL's column)
    system, system_prompt, system_message   a system turn before all others
    history                                 earlier exchanges, [[prompt, completion], ...] (LLaMA-Factory)
    image(s), video(s), audio(s)            not supported: refused unless empty

All other columns are metadata for the reward function and the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipes.chat.messages import PLAIN, Context, Message, Messages
from data_pipes.rows.turns import RowError, check_text, drop_null_entries, make_turn, parse_json, read_turns

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")


def drop_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Removes columns that are None, or NaN, which pandas writes for null.

    Example:
        >>> drop_nulls({"a": None, "b": float("nan"), "c": ""})
        {'c': ''}
    """
    return {name: x for name, x in row.items() if not (x is None or (isinstance(x, float) and x != x))}


def read_context(row: Mapping[str, Any]) -> Context:
    """Reads tools and template variables.

    Args:
        row: columns of the row, without nulls (`drop_nulls`).

    Returns:
        The Context; the shared object PLAIN for a row that has neither.

    Raises:
        RowError: if tools are not a list of JSON objects (or its JSON text), if variables are not a mapping,
            or if there is a column of images, videos or audio.

    Example:
        >>> read_context({"functions": [{"name": "now"}]}).tools
        ({'type': 'function', 'function': {'name': 'now'}},)
    """
    if media := [name for name in MEDIA_COLUMNS if row.get(name)]:
        raise RowError(f"only text is supported, got the column {media[0]}; drop such rows")
    tools = _read_tools(row.get("tools"), "tools")
    functions = _read_tools(row.get("functions"), "functions")
    if tools and functions:
        raise RowError("the row has tools and functions; delete one of the columns")
    for schema in functions:
        tools.append(schema if "function" in schema else {"type": "function", "function": schema})
    variables = row.get("chat_template_kwargs", {})
    if isinstance(variables, str):
        variables = parse_json(variables, "chat_template_kwargs must be JSON")
    if not isinstance(variables, Mapping):
        raise RowError(f"chat_template_kwargs must be a mapping, got a {type(variables).__name__}")
    context = Context(tuple(tools), tuple(drop_null_entries(variables).items()))
    check_text([*context.tools, *context.variables], "tools or chat_template_kwargs")
    return PLAIN if context == PLAIN else context


def prepend_system(row: Mapping[str, Any], messages: Messages) -> Messages:
    """Prepends the system prompt of a column to the turns.

    Args:
        row: columns of the row.
        messages: the turns, which may already begin with the same system prompt.

    Returns:
        The turns, with the system prompt once.

    Raises:
        RowError: if there are two different system prompts, or one is not a string.
    """
    for name in SYSTEM_COLUMNS:
        value = row.get(name)
        if not value:
            continue
        (turn,) = make_turn("system", value)
        if messages and messages[0].role in ("system", "developer"):
            if (messages[0].content or "").strip() != (turn.content or "").strip():
                raise RowError(
                    f"the column {name} and the first turn are different system prompts; keep one of them"
                )
        elif (turn.content or "").strip():
            messages = (turn, *messages)
    return messages


def read_history(row: Mapping[str, Any]) -> Messages:
    """Reads the column `history`: pairs of a prompt and a completion, or turns.

    Raises:
        RowError: if it holds anything else.

    Example:
        >>> [turn[:2] for turn in read_history({"history": [["1 + 1?", "2"]]})]
        [('user', '1 + 1?'), ('assistant', '2')]
    """
    history = row.get("history") or []
    if isinstance(history, str):
        history = parse_json(history, "history must be JSON")
    turns: list[Message] = []
    for pair in history if isinstance(history, list | tuple) else [history]:
        if isinstance(pair, Mapping):
            turns += read_turns(pair)
        elif isinstance(pair, list | tuple) and len(pair) == 2:
            turns += make_turn("user", pair[0]) + make_turn("assistant", pair[1])
        else:
            raise RowError(f"history must be pairs of a prompt and a completion, got {pair!r:.40}")
    return tuple(turns)


def _read_tools(value: Any, column: str) -> list[dict[str, Any]]:
    """Reads a list of JSON schemas; the list, or each schema, may be JSON text."""
    expected = f"{column} must be JSON"
    if isinstance(value, str):
        value = parse_json(value, expected) if value.strip() else None
    if value is None:
        return []
    schemas = []
    for item in value if isinstance(value, list | tuple) else [value]:
        schema = parse_json(item, expected) if isinstance(item, str) else item
        if not isinstance(schema, Mapping):
            raise RowError(f"{column} must be JSON schemas of functions, got {schema!r:.40}")
        schemas.append(drop_null_entries(schema))
    return schemas
