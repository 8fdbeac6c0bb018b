"""Records of conversations, preferences, unpaired completions and prompts: one schema for all data sets.

Data sets for fine-tuning name their columns differently; `data_pipes.rows.records` reads each row into one of
these four records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ROLES = ("system", "developer", "user", "assistant", "tool")


class Message(NamedTuple):
    """One turn.

    Fields:
        role: one of ROLES.
        content: the text; None if the turn has none, as a turn of tool calls.
        fields: the other fields of the turn (`tool_calls`, `reasoning_content`, `name`, ...), as (name,
            value) pairs in the row's order; the chat template sees each under its name.
        trained: False for a turn of the assistant that the loss skips.
    """

    role: str
    content: str | None
    fields: tuple[tuple[str, Any], ...] = ()
    trained: bool = True


Messages = tuple[Message, ...]


class Context(NamedTuple):
    """Fields of a row besides its turns, which the chat template reads.

    Fields:
        tools: JSON schemas of the functions that the assistant may call; the chat template sees them as
            `tools`.
        variables: further (name, value) pairs for the chat template, such as ("enable_thinking", False).
    """

    tools: tuple[Any, ...] = ()
    variables: tuple[tuple[str, Any], ...] = ()


PLAIN = Context()
"""The context of a row that has only turns."""


class Conversation(NamedTuple):
    """A conversation, in which the assistant's turns are trained.

    Fields:
        messages: all turns.
        name: name of the row, such as "chats.jsonl:17".
        context: tools and template variables.
        prompt: number of leading turns that form a prompt with a turn of the assistant in it; they are not
            trained. If the last of them and the next turn are both the assistant's, they are one turn. 0 for
            no such prompt.
    """

    messages: Messages
    name: str
    context: Context = PLAIN
    prompt: int = 0


class Preference(NamedTuple):
    """A chosen and a rejected completion of one prompt; `name` is the row's."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    name: str
    context: Context = PLAIN


class Unpaired(NamedTuple):
    """A completion of a prompt, labelled desirable or not; `name` is the row's."""

    prompt: Messages
    completion: Messages
    desirable: bool
    name: str
    context: Context = PLAIN


class Prompt(NamedTuple):
    """A prompt, with the columns of its row (`row`), which a reward function reads; `name` is the row's."""

    messages: Messages
    row: Mapping[str, Any]
    name: str
    context: Context = PLAIN
