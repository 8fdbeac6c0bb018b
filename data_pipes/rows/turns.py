"""Read the turns of a conversation, in every way in which data sets write them.

A turn is a mapping with a role and a content: `role` and `content` (OpenAI, transformers) or `from` and
`value` (ShareGPT), under the names that each tool has for the roles. Everything else that it holds is read or
kept:

    weight, train, training, loss, masked, mask   learned or only read, `Message.trained`
    tool_calls, function_call                      the field `tool_calls`, arguments as mappings
    reasoning_content, thinking, name, ...         fields of the same names, for the chat template

A null is a key that is not there: Arrow gives every struct of a column the same keys, and fills them with
nulls.
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
"""Names of the roles -> names of ROLES. `developer` stays: a template may write it otherwise than
`system`."""

CALL_ROLES = ("function_call", "tool_call")
"""Roles of LLaMA-Factory and ms-swift: the assistant's turn whose content is a call, as JSON."""

TRAINED_KEYS = ("weight", "train", "training", "loss")
MASKED_KEYS = ("masked", "mask")
"""Keys that say whether an assistant's turn is learned; of READ the value is turned round."""

DETAIL_KEYS = ("train_detail", "training_detail", "loss_scale")
"""Keys that choose parts of a turn, or how much they count."""

TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of content parts that hold text."""


class RowError(ValueError):
    """A row that cannot be read, in words."""


def read_turns(found: Any) -> Messages:
    """Reads a list of turns.

    Args:
        found: a sequence of mappings, one mapping, or a text that is such a list in JSON.

    Returns:
        A Message for each.

    Raises:
        RowError: with the turn's number, from 1, for an unknown role, a content that is no text,
            contradicting keys, a weight other than 0 and 1, or a call that has no name.

    Example:
        >>> read_turns([{"from": "gpt", "value": "Hi", "weight": 0}])
        (Message(role='assistant', content='Hi', fields=(), trained=False),)
    """
    if isinstance(found, str):
        found = _parse_json(found, "a list of messages")
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise RowError(f"expected a list of messages, got a {type(found).__name__}")
    messages: list[Message] = []
    for number, turn in enumerate(found, 1):
        try:
            messages += _read_exchange(turn) if _is_exchange(turn) else [_read_turn(turn)]
        except RowError as error:
            raise RowError(f"turn {number}: {error}") from None
    return tuple(messages)


def make_turn(role: str, *contents: Any) -> Messages:
    """Makes one turn of texts, a blank line between them.

    Args:
        role: a name of ROLES.
        contents: texts, or lists of text parts.

    Returns:
        One Message.

    Raises:
        RowError: for a content that is no text.
    """
    return (Message(role, "\n\n".join(_read_content(content, role) for content in contents)),)


def drop_null_entries(value: Any) -> Any:
    """Leaves out the null entries of mappings, at every depth.

    Example:
        >>> drop_null_entries({"a": None, "b": [{"c": None, "d": 1}, None]})
        {'b': [{'d': 1}, None]}
    """
    if isinstance(value, Mapping):
        return {name: drop_null_entries(x) for name, x in value.items() if x is not None}
    return [drop_null_entries(x) for x in value] if isinstance(value, list | tuple) else value


def check_text(value: Any, what: str) -> None:
    """Checks every text inside a value.

    Raises:
        RowError: if one has half a surrogate pair.
    """
    if isinstance(value, str):
        if re.search("[\ud800-\udfff]", value):
            raise RowError(f"{what} has half a surrogate pair, which is no text")
    elif isinstance(value, Mapping):
        for name, x in value.items():
            check_text(name, what)
            check_text(x, what)
    elif isinstance(value, list | tuple):
        for x in value:
            check_text(x, what)


def parse_json(text: str, expected: str) -> Any:
    """Reads the value that a text is in JSON.

    Raises:
        RowError: if it is none: `expected`, and the text.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{expected}, got {text!r:.60} ({error})") from None


def _is_exchange(turn: Any) -> bool:
    """True for a question with its answer in one mapping, as Capybara has them."""
    return (
        isinstance(turn, Mapping)
        and {"input", "output"} <= turn.keys()
        and not {"role", "from"} & turn.keys()
    )


def _read_exchange(turn: Mapping[str, Any]) -> Messages:
    """A question and its answer."""
    return make_turn("user", turn["input"]) + make_turn("assistant", turn["output"])


def _read_turn(found: Any) -> Message:
    """One turn."""
    if not isinstance(found, Mapping):
        raise RowError(f"expected a message with role and content, got a {type(found).__name__}")
    turn = drop_null_entries(found)
    name, content = _pop_either(turn, ("role", "from")), _pop_either(turn, ("content", "value"))
    if content is None and isinstance(turn.get("text"), str):
        content = turn.pop("text")
    if name is None:
        raise RowError(
            f"expected a message with role and content (or from and value), got {_list_keys(found)}"
        )
    role = ROLE_NAMES.get(str(name).strip().lower(), str(name))
    if role in CALL_ROLES:
        role, content, turn = "assistant", None, {**turn, "tool_calls": content}
    if role not in ROLES:
        raise RowError(f"unknown role {role!r}; the roles are {', '.join(ROLES)}")
    if turn.get("refusal") not in (None, ""):
        raise RowError("refusal is shown by no chat template; write it into content, or drop the row")
    trained = _pop_trained(turn, role)
    if calls := _pop_calls(turn):
        turn["tool_calls"] = calls
    fields = tuple((key, x) for key, x in turn.items() if x != "" or key == "name")
    if content is None and not any(x for key, x in fields if key not in ("name", "id")):
        raise RowError(
            f"expected a message with role and content (or from and value), got {_list_keys(found)}"
        )
    check_text(fields, f"the {role}'s turn")
    return Message(role, None if content is None else _read_content(content, role), fields, trained)


def _pop_either(turn: dict[str, Any], names: tuple[str, str]) -> Any:
    """Takes the value out that stands under either name; both must say the same."""
    found = [turn.pop(name) for name in names if name in turn]
    if len(found) == 2 and names[0] == "role":
        first, second = (ROLE_NAMES.get(str(x).lower(), x) for x in found)
        found = found[:1] if first == second else found
    if len(found) == 2 and found[0] != found[1]:
        raise RowError(
            f"{names[0]} is {found[0]!r:.40} and {names[1]} is {found[1]!r:.40}; leave one of them out"
        )
    return found[0] if found else None


def _read_content(content: Any, role: str) -> str:
    """The text of a content: a text, or a list of text parts, which follow each other directly."""
    if isinstance(content, list | tuple):
        content = "".join(_read_part(part, role) for part in content)
    if not isinstance(content, str):
        raise RowError(f"the content of the {role}'s turn must be a text, got a {type(content).__name__}")
    check_text(content, f"the {role}'s turn")
    return content


def _read_part(part: Any, role: str) -> str:
    """The text of one part of a content."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        raise RowError(
            f"the {role}'s turn has a part of type {kind!r}; only parts of type 'text' can be read"
        )
    return part["text"]


def _pop_trained(turn: dict[str, Any], role: str) -> bool:
    """Takes the keys out that say whether a turn is learned."""
    for key in DETAIL_KEYS:
        if turn.get(key) not in (None, [], "", "default"):
            raise RowError(
                f"{key} is not supported; a turn is learned as a whole, or with weight 0 not at all"
            )
        turn.pop(key, None)
    said: dict[str, bool] = {}
    for key in (*TRAINED_KEYS, *MASKED_KEYS):
        if key in turn:
            value = turn.pop(key)
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise RowError(f"{key} must be 0 or 1 (or false or true), got {value!r:.40}")
            said[key] = bool(value) != (key in MASKED_KEYS)
    if len(set(said.values())) > 1:
        raise RowError(f"{' and '.join(said)} contradict each other; leave one of them out")
    if role == "assistant":
        return all(said.values())
    if asked := [key for key in said if said[key] and key in TRAINED_KEYS]:
        raise RowError(
            f"{asked[0]} asks to learn a turn of the {role}; only turns of the assistant are learned"
        )
    return True


def _pop_calls(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes the calls of functions out of a turn."""
    found, old = turn.pop("tool_calls", None), turn.pop("function_call", None)
    if found and old:
        raise RowError("the turn has tool_calls and function_call; leave one of them out")
    found = found or old or []
    if isinstance(found, str):
        found = _parse_json(found, "tool_calls as a list")
    return [_read_call(call) for call in (found if isinstance(found, list) else [found])]


def _read_call(call: Any) -> dict[str, Any]:
    """One call, as chat templates expect it: {"type": "function", "function": {"name", "arguments":
    mapping}}."""
    if isinstance(call, str):
        call = _parse_json(call, "a call of a function")
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise RowError(f"expected a call of a function with name and arguments, got {call!r:.60}")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parse_json(arguments, f"the arguments of {inner['name']!r}") if arguments.strip() else {}
    if not isinstance(arguments, Mapping):
        raise RowError(
            f"the arguments of {inner['name']!r} must be a mapping, got a {type(arguments).__name__}"
        )
    made = {**inner, "arguments": dict(arguments)}
    return {**call, "function": made} if "function" in call else {"type": "function", "function": made}


def _parse_json(text: str, what: str) -> Any:
    """The value that a text is in JSON."""
    return parse_json(text, f"expected {what}, or a text that is one in JSON")


def _list_keys(turn: Mapping[str, Any]) -> str:
    """The keys of a turn, for a message."""
    return ", ".join(f"{name} (null)" if turn[name] is None else str(name) for name in turn) or "(none)"
