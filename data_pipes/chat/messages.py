"""One schema for conversations, preferences, unpaired answers and prompts.

Every data set of fine-tuning says the same things under other names; `data_pipes.rows.records` turns each row
into one of these four records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ROLES = ("system", "developer", "user", "assistant", "tool")


class Message(NamedTuple):
    """One turn.

    Fields:
        role: who speaks, a name of ROLES.
        content: the text; None where the row has none, as beside a tool call.
        fields: what else the turn holds (`tool_calls`, `reasoning_content`, `name`, ...), as (name, value)
            pairs in the row's order; the chat template sees each under its name.
        trained: False for an assistant's turn that is read and not learned.
    """

    role: str
    content: str | None
    fields: tuple[tuple[str, Any], ...] = ()
    trained: bool = True


Messages = tuple[Message, ...]


class Context(NamedTuple):
    """What a row says besides its turns.

    Fields:
        tools: JSON schemas of the functions that the assistant may call; the chat template sees them as
            `tools`.
        variables: further (name, value) pairs for the chat template, such as ("enable_thinking", False).
    """

    tools: tuple[Any, ...] = ()
    variables: tuple[tuple[str, Any], ...] = ()


PLAIN = Context()
"""That of a row with turns alone."""


class Conversation(NamedTuple):
    """Turns of which the assistant's are learned.

    Fields:
        messages: all of them.
        name: where the row is.
        context: tools and template variables.
        prompt: how many turns at the beginning are a prompt in which the assistant speaks; they are only
            read, and the turn that follows continues the last of them, if both are the assistant's. 0 for no
            such prompt.
    """

    messages: Messages
    name: str
    context: Context = PLAIN
    prompt: int = 0


class Preference(NamedTuple):
    """Two answers to one prompt, the first of which somebody preferred."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    name: str
    context: Context = PLAIN


class Unpaired(NamedTuple):
    """One answer, and whether it is a good one."""

    prompt: Messages
    completion: Messages
    desirable: bool
    name: str
    context: Context = PLAIN


class Prompt(NamedTuple):
    """Something to answer, with the row that it came from, in which a reward finds what the answer should
    be."""

    messages: Messages
    row: Mapping[str, Any]
    name: str
    context: Context = PLAIN
