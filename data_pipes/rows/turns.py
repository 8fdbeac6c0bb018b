"""Read the turns of a conversation in the formats of all common data sets.

A turn is a mapping with a role and a content: `role` and `content` (OpenAI, transformers) or `from` and
`value` (ShareGPT), or `text` in the place of a missing content (OpenAssistant). The role names of all common
tools are accepted, in any order: the chat template decides if two turns of one role may follow each other.
The other keys become:

    weight, train, training, loss, masked, mask   `Message.trained`: whether the turn is trained on
    tool_calls, function_call                      the field `tool_calls`, arguments as mappings
    reasoning_content, thinking, name, ...         fields of the same names, for the chat template

A null is a missing key: Arrow gives every struct of a column the same keys, and fills them with nulls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipes.chat.messages import ROLES, Message, Messages

ROLE_NAMES: Mapping[str, str] = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "claude", "model", "ai"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython", "tool_response", "function_response"), "tool"),
}
"""Role name in a data set -> ours. `developer` stays: a template may treat it unlike `system`."""

CALL_ROLES = ("function_call", "tool_call")
"""Roles of LLaMA-Factory and ms-swift: a turn of the assistant whose content is a tool call, as JSON."""

TRAINED_KEYS = ("weight", "train", "training", "loss")
MASKED_KEYS = ("masked", "mask")
"""Keys that say if an assistant turn is trained on: 1 means yes for TRAINED_KEYS, and no for MASKED_KEYS."""

DETAIL_KEYS = ("train_detail", "training_detail", "loss_scale")
"""Keys that train on parts of a turn or weight them, which is not supported: such a row is refused."""

TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of content parts that are text."""


MISSPELLED = ("contents", "contnet", "conent", "conten", "Content")
"""Keys that are taken for a misspelled `content` in a turn without content and tool calls."""


class RowError(ValueError):
    """A row that cannot be read; the message says what was expected, what the row has, and the fix."""


def read_turns(value: Any) -> Messages:
    """Reads a list of turns.

    Args:
        value: a sequence of mappings, one mapping, or the JSON text of such a list.

    Returns:
        A Message for each turn.

    Raises:
        RowError: for an unknown role, a content that is not text, contradicting keys, a weight other than 0
            and 1, or a tool call without a name; the message has the number of the turn, from 1.

    Example:
        >>> read_turns([{"from": "gpt", "value": "Hi", "weight": 0}])
        (Message(role='assistant', content='Hi', fields=(), trained=False),)
    """
    if isinstance(value, str):
        value = _parse_json_for(value, "a list of messages")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(f"expected a list of messages, got a {type(value).__name__}")
    messages: list[Message] = []
    for number, turn in enumerate(value, 1):
        try:
            if _is_exchange(turn):
                messages += _read_exchange(turn)
            else:
                messages.append(_read_turn(turn))
        except RowError as error:
            raise RowError(f"turn {number}: {error}") from None
    return tuple(messages)


def make_turn(role: str, *contents: Any) -> Messages:
    """Makes a conversation of one turn; its contents are joined by blank lines.

    Args:
        role: a name of ROLES.
        contents: strings, or lists of text parts.

    Returns:
        A tuple of one Message.

    Raises:
        RowError: for a content that is not text.
    """
    return (Message(role, "\n\n".join(_read_content(content, role) for content in contents)),)


def drop_null_entries(value: Any) -> Any:
    """Removes the null entries of mappings, at every depth.

    Example:
        >>> drop_null_entries({"a": None, "b": [{"c": None, "d": 1}, None]})
        {'b': [{'d': 1}, None]}
    """
    if isinstance(value, Mapping):
        return {name: drop_null_entries(x) for name, x in value.items() if x is not None}
    return [drop_null_entries(x) for x in value] if isinstance(value, list | tuple) else value


def check_text(value: Any, what: str) -> None:
    """Checks that every string inside a value is valid Unicode.

    Raises:
        RowError: if one has a lone surrogate; `what` names the value.
    """
    if isinstance(value, str):
        if re.search("[\ud800-\udfff]", value):
            raise RowError(f"{what} has a lone surrogate, which is not valid Unicode; fix the encoding")
    elif isinstance(value, Mapping):
        for name, x in value.items():
            check_text(name, what)
            check_text(x, what)
    elif isinstance(value, list | tuple):
        for x in value:
            check_text(x, what)


def parse_json(text: str, expected: str) -> Any:
    """Parses JSON.

    Raises:
        RowError: if the text is not JSON; the message begins with `expected`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{expected}, got {text!r:.60} ({error})") from None


def _is_exchange(turn: Any) -> bool:
    """Checks for a mapping {"input", "output"} without a role: two turns in one, as in Capybara."""
    return (
        isinstance(turn, Mapping)
        and {"input", "output"} <= turn.keys()
        and not {"role", "from"} & turn.keys()
    )


def _read_exchange(turn: Mapping[str, Any]) -> Messages:
    """Reads a mapping {"input", "output"} as a user turn and an assistant turn."""
    return make_turn("user", turn["input"]) + make_turn("assistant", turn["output"])


def _read_turn(value: Any) -> Message:
    """Reads a mapping with one role and one content."""
    if not isinstance(value, Mapping):
        raise RowError(f"expected a message with role and content, got a {type(value).__name__}")
    no_message = RowError(
        f"expected a message with role and content (or from and value), got {_list_keys(value)}"
    )
    turn = drop_null_entries(value)
    name, content = _pop_either(turn, ("role", "from")), _pop_either(turn, ("content", "value"))
    if content is None and isinstance(turn.get("text"), str):
        content = turn.pop("text")
    if name is None:
        raise no_message
    role = ROLE_NAMES.get(str(name).strip().lower(), str(name))
    if role in CALL_ROLES:
        turn["tool_calls"] = content
        role, content = "assistant", None
    if role not in ROLES:
        raise RowError(f"unknown role {role!r}; the roles are {', '.join(ROLES)}")
    if turn.get("refusal") not in (None, ""):
        raise RowError("no chat template renders `refusal`; write it into content, or drop the row")
    trained = _pop_trained(turn, role)
    if calls := _pop_calls(turn):
        turn["tool_calls"] = calls
    fields = tuple((key, x) for key, x in turn.items() if x != "" or key == "name")
    for near in MISSPELLED if content is None and "tool_calls" not in turn else ():
        if turn.get(near):
            raise RowError(
                f"expected role and content (or from and value), got {near!r}; did you mean content?"
            )
    has_other_content = any(x for key, x in fields if key not in ("name", "id"))  # such as tool calls
    if content is None and not has_other_content:
        raise no_message
    check_text(fields, f"the {role}'s turn")
    return Message(role, None if content is None else _read_content(content, role), fields, trained)


def _pop_either(turn: dict[str, Any], names: tuple[str, str]) -> Any:
    """Pops the value under either of two names; if both are there, they must agree."""
    values = [turn.pop(name) for name in names if name in turn]
    if len(values) < 2:
        return values[0] if values else None
    first, second = values
    if names[0] == "role":
        first, second = (ROLE_NAMES.get(str(x).lower(), x) for x in values)
    if first != second:
        raise RowError(
            f"{names[0]} is {values[0]!r:.40} and {names[1]} is {values[1]!r:.40}; delete one of them"
        )
    return values[0]


def _read_content(content: Any, role: str) -> str:
    """Reads a content: a string, or a list of text parts, which are concatenated."""
    if isinstance(content, list | tuple):
        content = "".join(_read_part(part, role) for part in content)
    if not isinstance(content, str):
        raise RowError(f"the content of the {role}'s turn must be a string, got {type(content).__name__}")
    check_text(content, f"the {role}'s turn")
    return content


def _read_part(part: Any, role: str) -> str:
    """Reads one part of a content."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        raise RowError(
            f"the {role}'s turn has a part of type {kind!r}; only parts of type 'text' can be read"
        )
    return part["text"]


def _pop_trained(turn: dict[str, Any], role: str) -> bool:
    """Pops the keys that say if a turn is trained on, and combines them."""
    for key in DETAIL_KEYS:
        if turn.get(key) not in (None, [], "", "default"):
            raise RowError(
                f"{key} is not supported; a turn is trained as a whole (weight 1) or not at all (weight 0)"
            )
        turn.pop(key, None)
    flags: dict[str, bool] = {}
    for key in (*TRAINED_KEYS, *MASKED_KEYS):
        if key in turn:
            value = turn.pop(key)
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise RowError(f"{key} must be 0 or 1 (or false or true), got {value!r:.40}")
            flags[key] = not value if key in MASKED_KEYS else bool(value)
    if len(set(flags.values())) > 1:
        raise RowError(f"{' and '.join(flags)} contradict each other; delete one of them")
    if role == "assistant":
        return all(flags.values())
    for key in TRAINED_KEYS:
        if flags.get(key):
            raise RowError(f"{key} is set on a turn of the {role}; only turns of the assistant are trained")
    return True


def _pop_calls(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """Pops the tool calls of a turn."""
    calls, legacy_call = turn.pop("tool_calls", None), turn.pop("function_call", None)
    if calls and legacy_call:
        raise RowError("the turn has tool_calls and function_call; delete one of them")
    calls = calls or legacy_call or []
    if isinstance(calls, str):
        calls = _parse_json_for(calls, "tool_calls as a list")
    if not isinstance(calls, list):
        calls = [calls]
    return [_read_call(call) for call in calls]


def _read_call(call: Any) -> dict[str, Any]:
    """Reads a tool call for chat templates: {"type": "function", "function": {"name", "arguments"}}."""
    if isinstance(call, str):
        call = _parse_json_for(call, "a function call")
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise RowError(f"expected a function call with name and arguments, got {call!r:.60}")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str) and not arguments.strip():
        arguments = {}
    if isinstance(arguments, str):
        arguments = _parse_json_for(arguments, f"the arguments of {inner['name']!r}")
    if not isinstance(arguments, Mapping):
        raise RowError(
            f"the arguments of {inner['name']!r} must be a mapping, got a {type(arguments).__name__}"
        )
    function = {**inner, "arguments": dict(arguments)}
    if "function" in call:
        return {**call, "function": function}
    return {"type": "function", "function": function}


def _parse_json_for(text: str, what: str) -> Any:
    """Parses a string in the place of a value; the error message says that `what` is expected."""
    return parse_json(text, f"expected {what}, or the same as JSON text")


def _list_keys(turn: Mapping[str, Any]) -> str:
    """Lists the keys of a turn, for an error message."""
    keys = [f"{name} (null)" if value is None else str(name) for name, value in turn.items()]
    return ", ".join(keys) or "(none)"
