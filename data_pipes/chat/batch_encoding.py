"""Render and encode many conversations at once: the core of the functions of `data_pipes.chat.chat`.

Shape letters: n tokens of one conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipes.chat.assistant_spans import Chat, Span, find_spans, render_prompt
from data_pipes.chat.messages import Context, Message
from data_pipes.chat.reasoning import restore_opening_tag
from data_pipes.chat.rendering import (
    ChatTemplate,
    Hidden,
    control_hider,
    render_marked,
    select_template,
    strip_marks,
)
from data_pipes.chat.span_encoding import encode_spans
from data_pipes.chat.template_checks import check_fields, check_rendered
from data_pipes.tokenizer.added import compile_any
from data_pipes.tokenizer.spec import Tokenizer, special_tokens


class PromptCompletion(NamedTuple):
    """A conversation to encode.

    Fields:
        prompt: turns that are never trained.
        completion: turns after it.
        context: tools and template variables.
    """

    prompt: Sequence[Message]
    completion: Sequence[Message]
    context: Context


Rendered = tuple[list[Span], list[str]]
"""(spans, texts): each control token in the text of a message is replaced by a placeholder in the spans, and
texts[i] is the text that placeholder i replaces."""

Hide = Callable[[Sequence[Message], Context], Hidden]
"""(messages, context) -> Hidden: both, with placeholders for the control tokens in their texts; see
`data_pipes.chat.rendering.control_hider`."""

Render = Callable[[ChatTemplate, PromptCompletion, Hide, re.Pattern], Rendered]
"""(template, conversation, hide, pattern of the tokens that end a turn) -> Rendered."""

OnError = Callable[[int, ValueError], Any]
"""Handles a conversation that the template refuses: (its index in the input, the error)."""

TURN_TOKEN = re.compile(r"<[|｜][^<>\s]+[|｜]>")
"""Form of added tokens that may end a turn even if the tokenizer does not declare them special."""


def encode_conversations(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    conversations: Iterable[PromptCompletion],
    render: Render,
    on_error: OnError | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Renders and encodes conversations.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        tokenizer: its special tokens are the control tokens.
        conversations: any number.
        render: `render_completion`, `render_with_generation_prompt` or `render_continued_prompt`.
        on_error: gets the index of each refused conversation, which is then skipped; None raises.

    Returns:
        (ids [n] int64, trained [n] bool) of each.

    Raises:
        ValueError: if `render` refuses a conversation and on_error is None, or the tokenizer refuses a text.
    """
    control_tokens = tuple(special_tokens(tokenizer))
    hide, control_pattern = control_hider(control_tokens), compile_any(control_tokens)
    added = [token.content for token in tokenizer.spec.added_tokens]
    turn_ends = compile_any([*control_tokens, *filter(TURN_TOKEN.fullmatch, added)])
    rows: list[Rendered] = []
    for index, conversation in enumerate(conversations):
        try:
            selected = select_template(template, conversation.context)
            rows.append(render(selected, conversation, hide, turn_ends))
        except ValueError as error:
            if on_error is None:
                raise
            on_error(index, error)
    return encode_spans(tokenizer, rows, control_pattern)


def render_completion(
    template: ChatTemplate, conversation: PromptCompletion, hide: Hide, turn_ends: re.Pattern
) -> Rendered:
    """Renders a conversation in which the assistant's turns of the completion are trained.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        conversation: if the prompt ends and the completion begins with a turn of the assistant, the two are
            one turn.
        hide: see `data_pipes.chat.rendering.control_hider`.
        turn_ends: pattern of the tokens that end a turn.

    Returns:
        Spans, and the texts of their placeholders.
    """
    prompt, completion = tuple(conversation.prompt), tuple(conversation.completion)
    prompt_turns = len(prompt)
    if prompt and completion and prompt[-1].role == completion[0].role == "assistant":
        prompt_turns -= 1
        completion = (_join_turns(prompt[-1], completion[0]), *completion[1:])
    messages, context, texts = hide((*prompt[:prompt_turns], *completion), conversation.context)
    messages = restore_opening_tag(template, messages, prompt_turns, context)
    chat = Chat(messages, context, hide(prompt, conversation.context).messages, prompt_turns)
    return find_spans(template, chat, turn_ends), texts


def render_with_generation_prompt(
    template: ChatTemplate, conversation: PromptCompletion, hide: Hide, turn_ends: re.Pattern
) -> Rendered:
    """Renders the prompt with the template's generation prompt after it; nothing is trained."""
    messages, context, texts = hide(conversation.prompt, conversation.context)
    check_fields(template, messages, context)
    text = strip_marks(render_marked(template, messages, prompt=True, context=context))
    check_rendered(template, messages, context, text)
    return [Span(text, False)], texts


def render_continued_prompt(
    template: ChatTemplate, conversation: PromptCompletion, hide: Hide, turn_ends: re.Pattern
) -> Rendered:
    """Renders the prompt: leaves a last turn of the assistant open, or else adds the generation prompt."""
    messages, context, texts = hide(conversation.prompt, conversation.context)
    return [Span(render_prompt(template, messages, context), False)], texts


def _join_turns(beginning: Message, rest: Message) -> Message:
    """Joins an assistant turn that begins in the prompt and ends in the completion."""
    fields = {**dict(beginning.fields), **dict(rest.fields)}
    content = (beginning.content or "") + (rest.content or "")
    return rest._replace(content=content, fields=tuple(fields.items()))
