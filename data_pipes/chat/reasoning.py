"""Complete assistant turns that close their reasoning (</think>) without opening it (<think>).

Such a turn was generated after a prompt that ends with the opening tag.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_pipes.chat.messages import Context, Message
from data_pipes.chat.rendering import REASONING_TAGS, ChatTemplate, render_marked, strip_marks

OPEN, CLOSE = REASONING_TAGS


def restore_opening_tag(
    template: ChatTemplate, messages: Sequence[Message], first: int, context: Context
) -> list[Message]:
    """Prepends the opening tag to turns that only close their reasoning, if the prompt opens it.

    A completion of a prompt that ends with "<think>\\n" begins inside the reasoning. Rendered without the
    opening tag, or with a second one, the training text would differ from the text at generation.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages: turns of the conversation.
        first: index of the first turn that may be changed.
        context: tools and template variables of the conversation.

    Returns:
        The messages; turns without reasoning, or with an opening tag, are unchanged.

    Raises:
        ValueError: as in `render_marked`.

    Example:
        >>> from data_pipes.chat.chat import chat_template
        >>> template = chat_template("{{ messages[0].content }}{{ 'A: <think>' if add_generation_prompt }}")
        >>> chat = [Message("user", "2?"), Message("assistant", "One. </think> No.")]
        >>> restore_opening_tag(template, chat, 0, Context())[1].content
        '<think>One. </think> No.'
    """
    restored = list(messages)
    for i, message in enumerate(messages):
        content = message.content or ""
        if i < max(first, 1) or message.role != "assistant" or CLOSE not in content or OPEN in content:
            continue
        prompt = strip_marks(render_marked(template, restored[:i], prompt=True, context=context))
        if prompt.rstrip().endswith(OPEN):
            restored[i] = message._replace(content=prompt[prompt.rindex(OPEN) :] + content)
    return restored
