"""Conversations rendered, cut into spans and encoded, many at once: what the functions of
`data_pipes.chat.chat` share.

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
from data_pipes.chat.template_checks import check_rendered
from data_pipes.tokenizer.spec import Tokenizer, special_tokens


class PromptCompletion(NamedTuple):
    """A conversation to encode.

    Fields:
        prompt: turns that are only read.
        said: turns that follow.
        context: tools and template variables.
    """

    prompt: Sequence[Message]
    said: Sequence[Message]
    context: Context


Rendered = tuple[list[Span], list[str]]
"""Spans of one conversation with placeholders, and what these stand for."""

MARKER = re.compile(r"<[|｜][^<>\s]+[|｜]>")
"""An added token of this form ends a turn also where the tokenizer does not call it special."""

OnError = Callable[[int, ValueError], Any]
"""What to do with a conversation that the template refuses: gets its number among those that were given, and
why."""

Cut = Callable[[ChatTemplate, PromptCompletion, Callable[..., Hidden], re.Pattern], Rendered]
"""(template, job, hide, pattern of control tokens) -> spans with placeholders, and what these stand for."""


def encode_conversations(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    jobs: Iterable[PromptCompletion],
    cut: Cut,
    on_error: OnError | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Renders, cuts and encodes conversations.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        tokenizer: of the control tokens.
        jobs: conversations.
        cut: what to make of each: `cut_completion`, `cut_with_generation_prompt` or `cut_prompt`.
        on_error: gets the number of each that is refused, which is then left out; None raises.

    Returns:
        (ids [n] int64, [n] bool: learned) of each.

    Raises:
        ValueError: as `cut`, without on_error; as the tokenizer's `encode`.
    """
    names = tuple(special_tokens(tokenizer))
    hide, controls = control_hider(names), _any_of(names)
    added = [token.content for token in tokenizer.spec.added_tokens]
    borders = _any_of([*names, *filter(MARKER.fullmatch, added)])
    rows: list[tuple[list[Span], list[str]]] = []
    for number, job in enumerate(jobs):
        try:
            rows.append(cut(select_template(template, job.context), job, hide, borders))
        except ValueError as error:
            if on_error is None:
                raise
            on_error(number, error)
    return encode_spans(tokenizer, rows, controls)


def _any_of(texts: Sequence[str]) -> re.Pattern:
    """A pattern of any of these texts, the longest first; of none it matches nothing."""
    return re.compile("|".join(map(re.escape, sorted(set(texts), key=len, reverse=True))) or r"(?!)")


def cut_completion(
    template: ChatTemplate, job: PromptCompletion, hide: Callable[..., Hidden], controls: re.Pattern
) -> Rendered:
    """Cuts a conversation whose answers are learned, those of its prompt excepted.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        job: prompt and answers; where both meet in turns of the assistant, the two are one turn.
        hide: see `data_pipes.chat.rendering.control_hider`.
        controls: pattern of the control tokens.

    Returns:
        Spans, and what their placeholders stand for.
    """
    prompt, said = tuple(job.prompt), tuple(job.said)
    first = len(prompt)
    if prompt and said and prompt[-1].role == said[0].role == "assistant":
        first, said = first - 1, (_join_turns(prompt[-1], said[0]), *said[1:])
    messages, context, hidden = hide((*prompt[:first], *said), job.context)
    messages = restore_opening_tag(template, messages, first, context)
    chat = Chat(messages, context, hide(prompt, job.context).messages, first)
    return find_spans(template, chat, controls), hidden


def cut_with_generation_prompt(
    template: ChatTemplate, job: PromptCompletion, hide: Callable[..., Hidden], controls: re.Pattern
) -> Rendered:
    """Cuts a conversation whose next turn is the assistant's: nothing of `job.said` is learned."""
    messages, context, hidden = hide(job.said, job.context)
    text = strip_marks(render_marked(template, messages, prompt=True, context=context))
    check_rendered(template, messages, context, text)
    return [Span(text, False)], hidden


def cut_prompt(
    template: ChatTemplate, job: PromptCompletion, hide: Callable[..., Hidden], controls: re.Pattern
) -> Rendered:
    """Cuts a conversation whose next turn, or the rest of whose last turn, is the assistant's:
    `job.prompt`."""
    messages, context, hidden = hide(job.prompt, job.context)
    return [Span(render_prompt(template, messages, context), False)], hidden


def _join_turns(begun: Message, rest: Message) -> Message:
    """A turn of the assistant whose beginning is given."""
    fields = {**dict(begun.fields), **dict(rest.fields)}
    return rest._replace(content=(begun.content or "") + (rest.content or ""), fields=tuple(fields.items()))
