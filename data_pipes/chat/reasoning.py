"""Answers as they were generated after a prompt that opens the thoughts: with </think> and without
<think>."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipes.chat.messages import Context, Message
from data_pipes.chat.rendering import REASONING_TAGS, ChatTemplate, render_marked, strip_marks

OPEN, CLOSE = REASONING_TAGS


def restore_opening_tag(
    template: ChatTemplate, messages: Sequence[Message], first: int, context: Context
) -> list[Message]:
    """Puts the opening back before answers that only close their thoughts, if the prompt opens them.

    What a model writes after "<think>\\n" begins with its thoughts. A template that writes such an answer
    after no opening, or after another one, would show the model a text that it never sees when it answers.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages: of the conversation.
        first: number of the first turn that may be changed.
        context: of the conversation.

    Returns:
        The messages; answers that have no thoughts, or open them, are as they were.

    Raises:
        ValueError: as in `render_marked`.

    Example:
        >>> from data_pipes.chat.chat import chat_template
        >>> template = chat_template("{{ messages[0].content }}{{ 'A: <think>' if add_generation_prompt }}")
        >>> chat = [Message("user", "2?"), Message("assistant", "One. </think> No.")]
        >>> restore_opening_tag(template, chat, 0, Context())[1].content
        '<think>One. </think> No.'
    """
    made = list(messages)
    for i, message in enumerate(messages):
        said = message.content or ""
        if i < max(first, 1) or message.role != "assistant" or CLOSE not in said or OPEN in said:
            continue
        before = strip_marks(render_marked(template, made[:i], prompt=True, context=context))
        if before.rstrip().endswith(OPEN):
            made[i] = message._replace(content=before[before.rindex(OPEN) :] + said)
    return made
