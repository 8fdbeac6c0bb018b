"""The assistant's spans: which pieces of a rendered conversation are learned.

A template says so itself with {% generation %} blocks. Where it has none, a turn of the assistant is what it
adds to the text before it, up to and with the control token that ends it; where the next turn's first token
ends it, as in GLM-4.5, that one, which a last turn gets as well. A template that changes earlier turns once a
later one is there (thoughts left out) has no such spans, and is refused with the name of one that has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from data_pipes.chat.messages import Context, Message
from data_pipes.chat.rendering import (
    REASONING_TAGS,
    ChatTemplate,
    render_continuation,
    render_marked,
    strip_marks,
)
from data_pipes.chat.template import BEGIN, END
from data_pipes.chat.template_checks import check_rendered, check_trained, check_turn, suggest_template

PROBE, ANSWER = Message("user", "a"), Message("assistant", "a")
"""Turns that any template takes, to see how it begins and ends an answer."""


BREAK = re.compile(rf"\s|{'|'.join(REASONING_TAGS)}")
"""After what a prompt may end besides control tokens."""


class Chat(NamedTuple):
    """A conversation with placeholders, of which the assistant's turns from number `first` on are learned.

    Fields:
        messages: all turns.
        context: tools and variables.
        prompt: turns that were given before what is learned; () where everything is learned. Its last turn
            may be the beginning of messages[first].
        first: number of the first turn that is learned.
    """

    messages: Sequence[Message]
    context: Context
    prompt: Sequence[Message] = ()
    first: int = 0


class Span(NamedTuple):
    """A piece of rendered text, and whether it is learned."""

    text: str
    trained: bool


def find_spans(template: ChatTemplate, chat: Chat, controls: re.Pattern) -> list[Span]:
    """Renders a conversation and cuts it.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        chat: with placeholders.
        controls: pattern of the control tokens.

    Returns:
        Spans, none of them empty.

    Raises:
        ValueError: if the template leaves out or changes what is to be learned, or rewrites earlier turns; or
            as in `render_marked`.
    """
    text = render_marked(template, chat.messages, context=chat.context)
    check_rendered(template, chat.messages, chat.context, text)
    learned = [i for i in range(chat.first, len(chat.messages)) if _is_trained(chat.messages[i])]
    check_trained(template, chat.messages, learned, text)
    found = (
        _marked_spans(template, chat, text, controls)
        if template.program.marked
        else _turn_spans(template, chat, text, controls)
    )
    return [span for span in found if span.text]


def render_prompt(template: ChatTemplate, messages: Sequence[Message], context: Context) -> str:
    """Renders what a model is to answer: up to the beginning of its turn, or of what it has said so far.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages: with placeholders; where the last is the assistant's, it is continued.
        context: with placeholders.

    Returns:
        The text.

    Raises:
        ValueError: if the template leaves out a turn that is not the assistant's; or as in `render_continuation`.
    """
    if messages and messages[-1].role == "assistant":
        text = render_continuation(template, messages, context=context)
    else:
        text = strip_marks(render_marked(template, messages, prompt=True, context=context))
    check_rendered(template, messages, context, text)
    return text


def common_prefix_length(a: str, b: str) -> int:
    """Returns with how many characters both texts begin."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # slices compare quickly, characters do not
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _marked_spans(template: ChatTemplate, chat: Chat, text: str, controls: re.Pattern) -> list[Span]:
    """Pieces of a text with {% generation %} blocks, which are learned after the prompt."""
    first = 0
    if chat.prompt:
        before, after = render_prompt(template, chat.prompt, chat.context), strip_marks(text)
        first = _prompt_boundary(before, after, controls)
    depth, place, found = 0, 0, []
    for piece in re.split(f"([{BEGIN}{END}])", text):
        if piece in (BEGIN, END):
            depth += 1 if piece == BEGIN else -1
            continue
        cut = min(max(first - place, 0), len(piece)) if depth > 0 else 0
        found += [Span(piece[:cut], False), Span(piece[cut:], depth > 0)]
        place += len(piece)
    return _exclude_untrained(chat, text, found)


def _exclude_untrained(chat: Chat, text: str, found: list[Span]) -> list[Span]:
    """Spans in which the blocks of turns that are only read are not learned."""
    said = [message.trained for message in chat.messages if message.role == "assistant"]
    if all(said):
        return found
    blocks = list(re.finditer(f"{BEGIN}[^{BEGIN}{END}]*{END}", text))
    if len(blocks) != len(said):
        raise ValueError(
            f"the chat template has {len(blocks)} {{% generation %}} blocks for {len(said)} turns of the assistant, so "
            "those that are not to be learned cannot be told apart; drop them, or give another --chat_template"
        )
    places = [
        (len(strip_marks(text[: block.start()])), len(strip_marks(text[: block.end()]))) for block in blocks
    ]
    unread = [place for place, keep in zip(places, said, strict=True) if not keep]
    place, kept = 0, []
    for span in found:
        inside = any(a <= place and place + len(span.text) <= b for a, b in unread)
        kept.append(Span(span.text, span.trained and not inside))
        place += len(span.text)
    return kept


def _turn_spans(template: ChatTemplate, chat: Chat, text: str, controls: re.Pattern) -> Iterator[Span]:
    """Pieces of a text whose template marks nothing: what each turn of the assistant adds is learned."""
    done = 0
    for i, message in enumerate(chat.messages):
        if i < chat.first or not _is_trained(message):
            continue
        whole = i == len(chat.messages) - 1
        after = text if whole else render_marked(template, chat.messages[: i + 1], context=chat.context)
        start = _turn_start(template, chat, i, after, controls)
        if closed := _closing_token(template, chat, i, after, start, controls):
            after += closed
            text = after if whole else text
        end = _turn_end(template, chat, i, after, start, controls)
        if start < done or not text.startswith(after[:end]):
            raise ValueError(_rewrite_message(template, i))
        check_turn(
            template, message, i, after[start:end], partial(_prompt_opening, template, chat, i, after, start)
        )
        if i == chat.first and chat.prompt and chat.prompt[-1].role == "assistant":
            given = render_prompt(template, chat.prompt, chat.context)
            if not start <= len(given) <= end or not text.startswith(given):
                raise ValueError(_rewrite_message(template, i))
            start = len(given)
        yield Span(text[done:start], False)
        yield Span(text[start:end], True)
        done = end
    yield Span(text[done:], False)


def _is_trained(message: Message) -> bool:
    """An answer that counts."""
    return message.role == "assistant" and message.trained


def _turn_start(template: ChatTemplate, chat: Chat, i: int, after: str, controls: re.Pattern) -> int:
    """Where the assistant's turn begins in the text that ends with it: after what a prompt would end with."""
    if i == 0:  # many templates cannot render a prompt of nothing
        header = _turn_header(template, chat.context)
        place = after.find(header) if header else -1
        if place < 0:
            raise ValueError(
                "the conversation begins with the assistant's turn, which this chat template cannot show"
            )
        return place + len(header)
    before = render_marked(template, chat.messages[:i], prompt=True, context=chat.context)
    if after.startswith(before):
        return len(before)
    base = render_marked(template, chat.messages[:i], context=chat.context)
    if not (after.startswith(base) and before.startswith(base)):
        raise ValueError(_rewrite_message(template, i))
    return max(len(base), _prompt_boundary(before, after, controls))


def _turn_header(template: ChatTemplate, context: Context) -> str:
    """How the template begins the assistant's turn."""
    closed, opened = (
        render_marked(template, [PROBE], prompt=prompt, context=context) for prompt in (False, True)
    )
    return opened[len(closed) :] if opened.startswith(closed) else ""


def _prompt_boundary(before: str, after: str, controls: re.Pattern) -> int:
    """Where a prompt ends in the text that follows it: if they differ, after the last control token or white
    space that they share, so that no word is cut."""
    same = common_prefix_length(before, after)
    if same == len(before):
        return same
    ends = (match.end() for pattern in (controls, BREAK) for match in pattern.finditer(after, 0, same))
    return max(ends, default=0)


def _prompt_opening(template: ChatTemplate, chat: Chat, i: int, after: str, start: int) -> str:
    """What the prompt has opened already of the turn that begins at `start`, such as <think>."""
    base = render_marked(template, chat.messages[:i], context=chat.context) if i else ""
    return after[len(base) : start] if after.startswith(base) else ""


def _closing_token(
    template: ChatTemplate, chat: Chat, i: int, after: str, start: int, controls: re.Pattern
) -> str:
    """The control token with which the next turn begins, if that alone ends this one; else ""."""
    if controls.search(after, start):
        return ""
    if i + 1 < len(chat.messages):
        before, following = chat.messages[: i + 1], chat.messages[i + 1]
    else:  # a further question may change what stands before it, so a short talk shows how it begins
        before, following = [PROBE, ANSWER], PROBE
    try:
        after = render_marked(template, before, context=chat.context)
        more = render_marked(template, [*before, following], context=chat.context)
    except ValueError:
        return ""
    found = controls.match(more, len(after)) if more.startswith(after) else None
    return found[0] if found else ""


def _turn_end(
    template: ChatTemplate, chat: Chat, i: int, after: str, start: int, controls: re.Pattern
) -> int:
    """Where the assistant's turn ends: after its last control token, those that only end a conversation left
    out."""
    ends = [match.end() for match in controls.finditer(after, start)]
    if len(ends) < 2:
        return ends[0] if ends else len(after)
    try:
        more = render_marked(template, chat.messages[: i + 1], prompt=True, context=chat.context)
    except ValueError:
        return ends[-1]
    same = common_prefix_length(after, more)
    same = next(
        (match.start() for match in controls.finditer(after, start) if match.start() < same < match.end()),
        same,
    )
    last = max((end for end in ends if end <= same), default=start)
    if after[last:same].strip() or last == start:  # what is said is still open there
        last = min((end for end in ends if end > last), default=last)
    return last


def _rewrite_message(template: ChatTemplate, i: int) -> str:
    """A refusal of a template whose turns cannot be told apart."""
    return (
        f"encode_chat: expected a chat template that adds each turn after what stands there already, and this one "
        f"changes the text up to turn {i} once that turn or a later one is there, so its tokens cannot be told apart; "
        f"{suggest_template(template)}"
    )
