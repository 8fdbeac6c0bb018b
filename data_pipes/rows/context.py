"""Read what a row says besides its turns: tools, template variables, a system prompt, earlier exchanges.

    tools, functions                        JSON schemas of the functions that the assistant may call
    chat_template_kwargs                    variables for the chat template (TRL's column)
    system, system_prompt, system_message   a system turn before all others
    history                                 earlier exchanges, [[question, answer], ...] (LLaMA-Factory's
    Alpaca) image(s), video(s), audio(s)            refused, if there is anything in them

All other columns are metadata, which a reward or a person may read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipes.chat.messages import PLAIN, Context, Message, Messages
from data_pipes.rows.turns import RowError, check_text, drop_null_entries, make_turn, parse_json, read_turns

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")


def drop_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the columns that hold nothing: null, or the NaN that pandas writes for it.

    Example:
        >>> drop_nulls({"a": None, "b": float("nan"), "c": ""})
        {'c': ''}
    """
    return {name: x for name, x in row.items() if x is not None and not (isinstance(x, float) and x != x)}


def read_context(row: Mapping[str, Any]) -> Context:
    """Reads tools and template variables.

    Args:
        row: its columns, see `drop_nulls`.

    Returns:
        Context; the same PLAIN for a row that has neither.

    Raises:
        RowError: for tools that are no list of JSON objects (or such a list as JSON text), variables that are
            no mapping, or a column of images, videos or sounds.

    Example:
        >>> read_context({"functions": [{"name": "now"}]}).tools
        ({'type': 'function', 'function': {'name': 'now'}},)
    """
    if media := [name for name in MEDIA_COLUMNS if row.get(name)]:
        raise RowError(f"the column {media[0]} holds what is no text; leave such rows out")
    tools = _read_tools(row.get("tools"), "tools")
    functions = _read_tools(row.get("functions"), "functions")
    if tools and functions:
        raise RowError("the row has tools and functions; leave one of the columns out")
    tools = tools or [f if "function" in f else {"type": "function", "function": f} for f in functions]
    variables = row.get("chat_template_kwargs", {})
    if isinstance(variables, str):
        variables = parse_json(variables, "chat_template_kwargs must be JSON")
    if not isinstance(variables, Mapping):
        raise RowError(f"chat_template_kwargs must be a mapping, got a {type(variables).__name__}")
    found = Context(tuple(tools), tuple(drop_null_entries(variables).items()))
    check_text([*found.tools, *found.variables], "tools or chat_template_kwargs")
    return PLAIN if found == PLAIN else found


def prepend_system(row: Mapping[str, Any], messages: Messages) -> Messages:
    """Puts the system prompt of a column before the turns.

    Args:
        row: its columns.
        messages: the turns, which may begin with the same system prompt.

    Returns:
        The turns, the system prompt once.

    Raises:
        RowError: if two different system prompts are given, or one is no text.
    """
    given = [(name, row[name]) for name in SYSTEM_COLUMNS if row.get(name)]
    for name, value in given:
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
    """Reads the column `history`: pairs of a question and an answer, or turns.

    Raises:
        RowError: if it holds something else.

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
            raise RowError(f"history must be pairs of a question and an answer, got {pair!r:.40}")
    return tuple(turns)


def _read_tools(found: Any, column: str) -> list[dict[str, Any]]:
    """A list of schemas; also as JSON text, whole or each."""
    if isinstance(found, str):
        found = parse_json(found, f"{column} must be JSON") if found.strip() else None
    if found is None:
        return []
    items = [
        parse_json(item, f"{column} must be JSON") if isinstance(item, str) else item
        for item in _as_list(found)
    ]
    if other := [item for item in items if not isinstance(item, Mapping)]:
        raise RowError(f"{column} must be JSON schemas of functions, got {other[0]!r:.40}")
    return [drop_null_entries(item) for item in items]


def _as_list(found: Any) -> list[Any]:
    """A list, or one thing as a list of it."""
    return list(found) if isinstance(found, list | tuple) else [found]
