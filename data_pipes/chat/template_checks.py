"""Nothing that a row says is left out by a template without a word.

A template writes what it knows of: tools, calls, thoughts or a system message that it does not know vanish.
Training or answering would go on with less than the row says, so such a row is refused by what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipes.chat.messages import Context, Message
from data_pipes.chat.presets import NAMED
from data_pipes.chat.rendering import REASONING_FIELDS, ChatTemplate, render_marked
from data_pipes.chat.template import HERE

FITTING = (
    ("<｜Assistant｜>", "deepseek-r1"),
    ("</think>", "qwen3"),
    ("<|im_start|>", "qwen2.5"),
    ("<|start_header_id|>", "llama3"),
)
"""(a text in a template's source, the template of `data_pipes.chat.presets` that fits it)."""


def check_rendered(template: ChatTemplate, messages: Sequence[Message], context: Context, text: str) -> None:
    """Refuses a rendering in which something is missing that the messages say.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages, context: with placeholders.
        text: what the template made of them.

    Raises:
        ValueError: if tools, tool calls, or the content of a turn that is not the assistant's are left out.
    """
    if context.tools and "tools" not in template.program.names:
        raise ValueError(
            "the chat template does not show `tools`; drop them, or give a --chat_template that does"
        )
    for i, message in enumerate(messages):
        for name in ("tool_calls", "function_call"):
            if dict(message.fields).get(name) and name not in template.source:
                raise ValueError(
                    f"the chat template does not show `{name}` of turn {i}; give a --chat_template that does"
                )
        said = (message.content or "").strip()
        if said and message.role != "assistant" and not _contains(said, text):
            if json.dumps(said, ensure_ascii=False)[1:-1] in text or _is_rendered(
                template, messages, i, context
            ):
                continue
            raise ValueError(
                f"the chat template leaves out turn {i}, of the {message.role}; drop that turn, or give a "
                "--chat_template that shows it"
            )


def check_trained(
    template: ChatTemplate, messages: Sequence[Message], learned: Sequence[int], text: str
) -> None:
    """Refuses a conversation whose last answer, or the thoughts of any, cannot be seen in the text.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages: with placeholders.
        learned: numbers of the turns that are learned.
        text: what the template made of the messages.

    Raises:
        ValueError: naming the turn.
    """
    for i in learned:
        message = messages[i]
        if _reasoning_of(message) and not any(name in template.source for name in REASONING_FIELDS[:2]):
            raise ValueError(
                f"the chat template does not show `reasoning_content`, the thoughts of turn {i}, which are to be "
                "learned; drop them, or give a --chat_template that shows them, such as qwen3 for Qwen3"
            )
        if i == learned[-1]:
            check_turn(template, message, i, text)


def check_turn(
    template: ChatTemplate, message: Message, i: int, turn: str, opened: Callable[[], str] = lambda: ""
) -> None:
    """Refuses a turn in which something is missing that the assistant says.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        message: the turn, with placeholders.
        i: its number.
        turn: what the template made of it.
        opened: gives what the prompt before the turn says of it already, such as "<think>"; asked only where
            something is missing.

    Raises:
        ValueError: naming the turn, and a template that shows all of it.
    """
    said = [
        ("content", message.content),
        *(("tool call", name) for name in _called_functions(dict(message.fields))),
    ]
    for what, value in [*said, ("thoughts", _reasoning_of(message))]:
        if isinstance(value, str) and not _contains(value, turn) and not _contains(value, opened() + turn):
            raise ValueError(
                f"the chat template leaves out or changes (a part of) the {what} of turn {i}, which is to be learned; "
                f"{suggest_template(template)}"
            )


def suggest_template(template: ChatTemplate) -> str:
    """Returns what to do about a template that cannot be learned from."""
    fitting = next((name for text, name in FITTING if text in template.source), None)
    name = f"give --chat_template {fitting}, or " if fitting and template.source != NAMED[fitting] else ""
    if template.program.marked:
        return f"{name}write all of it in the template"
    return f"{name}put {{% generation %}} and {{% endgeneration %}} around what the assistant says in the template"


def _contains(said: str, text: str) -> bool:
    """Whether a text is in another, whatever the white space."""
    return said.strip() in text or "".join(said.split()) in "".join(text.split())


def _is_rendered(template: ChatTemplate, messages: Sequence[Message], i: int, context: Context) -> bool:
    """Whether what turn i says reaches the text, however changed."""
    marked = [*messages[:i], messages[i]._replace(content=f"{messages[i].content}{HERE}"), *messages[i + 1 :]]
    try:
        return HERE in render_marked(template, marked, context=context)
    except ValueError:
        return False


def _reasoning_of(message: Message) -> Any:
    """What the assistant thinks before it answers, None where it has no field of its own."""
    fields = dict(message.fields)
    return next((fields[name] for name in REASONING_FIELDS if fields.get(name) is not None), None)


def _called_functions(fields: dict[str, Any]) -> Iterator[Any]:
    """Names of the functions that a turn calls."""
    calls = fields.get("tool_calls")
    for call in [*(calls if isinstance(calls, list | tuple) else ()), fields.get("function_call")]:
        found = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(found, dict):
            yield found.get("name")
