"""Refuse a rendering that drops a part of its row.

A template renders only the fields that its author thought of: tools, tool calls, reasoning or a system
message may be missing from its output. Training on a part of the row would go unnoticed, so the row is
refused, and the message names the missing part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipes.chat.messages import Context, Message
from data_pipes.chat.presets import NAMED
from data_pipes.chat.rendering import REASONING_FIELDS, ChatTemplate, render_marked
from data_pipes.chat.template import HERE

FAMILY_PRESETS = (
    ("<｜Assistant｜>", "deepseek-r1"),
    ("</think>", "qwen3"),
    ("<|im_start|>", "qwen2.5"),
    ("<|start_header_id|>", "llama3"),
)
"""(text in the source of a model family's template, preset for that family); the first match wins."""


def check_fields(template: ChatTemplate, messages: Sequence[Message], context: Context) -> None:
    """Refuses tools and tool calls that the template does not name, before it is rendered.

    Without tool calls a turn may have no content, at which such a template fails with an error of its own.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages, context: turns, and tools and variables.

    Raises:
        ValueError: if there are such tools or tool calls; the message has the number of the turn, from 1.
    """
    if context.tools and "tools" not in template.program.names:
        raise ValueError(
            "the chat template does not render `tools`; drop them, or give a --chat_template that does"
        )
    for number, message in enumerate(messages, 1):
        for name in ("tool_calls", "function_call"):
            if dict(message.fields).get(name) and name not in template.source:
                raise ValueError(
                    f"the chat template does not render `{name}` of turn {number}; give a --chat_template "
                    "that does"
                )


def check_rendered(template: ChatTemplate, messages: Sequence[Message], context: Context, text: str) -> None:
    """Refuses a rendering without the content of a turn.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages, context: turns, and tools and variables, with placeholders.
        text: their rendering.

    Raises:
        ValueError: if the content of a turn of another role than the assistant's is missing; the message has
            the number of the turn, from 1.
    """
    for i, message in enumerate(messages):
        content = (message.content or "").strip()
        if content and message.role != "assistant" and not _contains(content, text):
            if json.dumps(content, ensure_ascii=False)[1:-1] in text or _is_rendered(
                template, messages, i, context
            ):
                continue
            raise ValueError(
                f"the chat template drops turn {i + 1}, of the {message.role}; delete that turn, or give a "
                "--chat_template that renders it"
            )


def check_trained(
    template: ChatTemplate, messages: Sequence[Message], trained: Sequence[int], text: str
) -> None:
    """Refuses a rendering without the last trained turn, or without the reasoning of a trained turn.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages: turns, with placeholders.
        trained: indices of the trained turns.
        text: their rendering.

    Raises:
        ValueError: if such a part is missing; the message names the turn.
    """
    for i in trained:
        message = messages[i]
        if _reasoning_of(message) and not any(name in template.source for name in REASONING_FIELDS[:2]):
            raise ValueError(
                f"the chat template does not render `reasoning_content`, the reasoning of turn {i + 1}, "
                "which is trained; drop it, or give a --chat_template that renders it, such as qwen3"
            )
        if i == trained[-1]:
            check_turn(template, message, i, text)


def check_turn(
    template: ChatTemplate, message: Message, i: int, turn: str, opened: Callable[[], str] = lambda: ""
) -> None:
    """Refuses a rendered turn of the assistant without its content, reasoning or tool calls.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        message: the turn, with placeholders.
        i: index of the turn.
        turn: rendering of the turn.
        opened: returns the text of the turn that its prompt already contains, such as "<think>"; called only
            if something is missing from `turn`.

    Raises:
        ValueError: if such a part is missing; the message names the turn, and a template that renders all of
            it.
    """
    expected: list[tuple[str, Any]] = [("content", message.content)]
    expected += [("tool call", name) for name in _called_functions(dict(message.fields))]
    expected.append(("reasoning", _reasoning_of(message)))
    for part, value in expected:
        if isinstance(value, str) and not _contains(value, turn) and not _contains(value, opened() + turn):
            raise ValueError(
                f"the chat template drops or changes (a part of) the {part} of turn {i + 1}, which is "
                f"trained; {suggest_template(template)}"
            )


def suggest_template(template: ChatTemplate) -> str:
    """Returns advice for a template that cannot be used for training."""
    preset = next((name for text, name in FAMILY_PRESETS if text in template.source), None)
    name = f"give --chat_template {preset}, or " if preset and template.source != NAMED[preset] else ""
    if template.program.marked:
        return f"{name}render all of it in the template"
    return (
        f"{name}put {{% generation %}} and {{% endgeneration %}} around the assistant's text in the template"
    )


def _contains(value: str, text: str) -> bool:
    """True if the text contains the value, apart from white space."""
    return value.strip() in text or "".join(value.split()) in "".join(text.split())


def _is_rendered(template: ChatTemplate, messages: Sequence[Message], i: int, context: Context) -> bool:
    """True if a mark at the end of turn i's content is rendered: the content is changed, not dropped."""
    marked = list(messages)
    marked[i] = messages[i]._replace(content=f"{messages[i].content}{HERE}")
    try:
        return HERE in render_marked(template, marked, context=context)
    except ValueError:
        return False


def _reasoning_of(message: Message) -> Any:
    """The assistant's reasoning; None if no field of the turn holds it."""
    fields = dict(message.fields)
    return next((fields[name] for name in REASONING_FIELDS if fields.get(name) is not None), None)


def _called_functions(fields: dict[str, Any]) -> Iterator[Any]:
    """Yields the names of the functions that a turn calls."""
    calls = fields.get("tool_calls")
    for call in [*(calls if isinstance(calls, list | tuple) else ()), fields.get("function_call")]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield function.get("name")
