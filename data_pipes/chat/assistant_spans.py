"""Split a rendered conversation into trained and untrained spans.

A template marks the trained text itself with {% generation %} blocks. Without them, a turn of the assistant
is the text that it adds after the earlier turns, up to and including the control token that ends it. Where
only the first token of the next turn ends it, as in GLM-4.5, that token is included, and appended after the
last turn. A template that changes earlier turns when a later one is added (Qwen3 drops their reasoning) has
no such spans; it is refused, and the message names a preset that works.
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
from data_pipes.chat.template_checks import (
    check_fields,
    check_rendered,
    check_trained,
    check_turn,
    suggest_template,
)
from pure.plural import count_noun

PROBE, ANSWER = Message("user", "a"), Message("assistant", "a")
"""Turns that every template accepts; their rendering shows how it begins and ends the assistant's turn."""

BREAK = re.compile(rf"\s|{'|'.join(REASONING_TAGS)}")
"""Pattern of text after which a prompt may end, besides control tokens."""


class Chat(NamedTuple):
    """A conversation whose assistant turns from index `first` on are trained.

    Fields:
        messages: all turns, with placeholders for control tokens (`data_pipes.chat.rendering`).
        context: tools and template variables, with placeholders.
        prompt: turns before the trained ones; () if all are trained. Its last turn may be the beginning of
            messages[first].
        first: index of the first trained turn.
    """

    messages: Sequence[Message]
    context: Context
    prompt: Sequence[Message] = ()
    first: int = 0


class Span(NamedTuple):
    """A piece of rendered text, and whether the loss covers it."""

    text: str
    trained: bool


def find_spans(template: ChatTemplate, chat: Chat, controls: re.Pattern) -> list[Span]:
    """Renders a conversation and splits it into spans.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        chat: the conversation.
        controls: pattern of the control tokens.

    Returns:
        Spans in order, none of them empty.

    Raises:
        ValueError: if the template drops or changes trained text, or rewrites earlier turns; or as in
            `render_marked`.
    """
    check_fields(template, chat.messages, chat.context)
    text = render_marked(template, chat.messages, context=chat.context)
    check_rendered(template, chat.messages, chat.context, text)
    trained = [i for i in range(chat.first, len(chat.messages)) if _is_trained(chat.messages[i])]
    check_trained(template, chat.messages, trained, text)
    split = _marked_spans if template.program.marked else _turn_spans
    return [span for span in split(template, chat, text, controls) if span.text]


def render_prompt(template: ChatTemplate, messages: Sequence[Message], context: Context) -> str:
    """Renders a prompt, up to the header of the assistant's turn or to the end of that turn's text so far.

    Args:
        template: see `data_pipes.chat.chat.chat_template`.
        messages: turns, with placeholders; a last turn of the assistant is left open, to be continued.
        context: tools and template variables, with placeholders.

    Returns:
        The text.

    Raises:
        ValueError: if the template drops a turn of another role; or as in `render_continuation`.
    """
    check_fields(template, messages, context)
    if messages and messages[-1].role == "assistant":
        text = render_continuation(template, messages, context=context)
    else:
        text = strip_marks(render_marked(template, messages, prompt=True, context=context))
    check_rendered(template, messages, context, text)
    return text


def common_prefix_length(a: str, b: str) -> int:
    """Returns the length of the longest common prefix, by bisection (comparing slices is fast)."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _marked_spans(template: ChatTemplate, chat: Chat, text: str, controls: re.Pattern) -> list[Span]:
    """Spans of a text with {% generation %} blocks; the part of a block inside the prompt is untrained."""
    first = 0
    if chat.prompt:
        prompt = render_prompt(template, chat.prompt, chat.context)
        first = _prompt_boundary(prompt, strip_marks(text), controls)
    depth, place, spans = 0, 0, list[Span]()
    for piece in re.split(f"([{BEGIN}{END}])", text):
        if piece == BEGIN:
            depth += 1
        elif piece == END:
            depth -= 1
        else:
            cut = min(max(first - place, 0), len(piece)) if depth > 0 else 0
            spans += [Span(piece[:cut], False), Span(piece[cut:], depth > 0)]
            place += len(piece)
    return _exclude_untrained(chat, text, spans)


def _exclude_untrained(chat: Chat, text: str, spans: list[Span]) -> list[Span]:
    """The spans, with those of assistant turns that have `trained=False` marked as untrained."""
    trained = [message.trained for message in chat.messages if message.role == "assistant"]
    if all(trained):
        return spans
    blocks = list(re.finditer(f"{BEGIN}[^{BEGIN}{END}]*{END}", text))
    if len(blocks) != len(trained):
        raise ValueError(
            f"the chat template has {count_noun(len(blocks), '{% generation %} block')} for "
            f"{count_noun(len(trained), 'turn')} of the assistant, so the turns with weight 0 cannot be "
            "found; drop these turns, or give another --chat_template"
        )
    excluded = []
    for block, is_trained in zip(blocks, trained, strict=True):
        if not is_trained:
            start, end = (len(strip_marks(text[:place])) for place in block.span())
            excluded.append((start, end))
    place, result = 0, []
    for span in spans:
        end = place + len(span.text)
        inside = any(low <= place and end <= high for low, high in excluded)
        result.append(Span(span.text, span.trained and not inside))
        place = end
    return result


def _turn_spans(template: ChatTemplate, chat: Chat, text: str, controls: re.Pattern) -> Iterator[Span]:
    """Spans of a text without {% generation %} blocks: the text that each assistant turn adds is trained."""
    done = 0
    for i, message in enumerate(chat.messages):
        if i < chat.first or not _is_trained(message):
            continue
        is_last = i == len(chat.messages) - 1
        rendered = text if is_last else render_marked(template, chat.messages[: i + 1], context=chat.context)
        start = _turn_start(template, chat, i, rendered, controls)
        if closing := _closing_token(template, chat, i, rendered, start, controls):
            rendered += closing
            text = rendered if is_last else text
        end = _turn_end(template, chat, i, rendered, start, controls)
        if start < done or not text.startswith(rendered[:end]):
            raise ValueError(_rewrite_message(template, i))
        check_turn(
            template,
            message,
            i,
            rendered[start:end],
            partial(_prompt_opening, template, chat, i, rendered, start),
        )
        if i == chat.first and chat.prompt and chat.prompt[-1].role == "assistant":
            prompt = render_prompt(template, chat.prompt, chat.context)
            if not start <= len(prompt) <= end or not text.startswith(prompt):
                raise ValueError(_rewrite_message(template, i))
            start = len(prompt)
        yield Span(text[done:start], False)
        yield Span(text[start:end], True)
        done = end
    yield Span(text[done:], False)


def _is_trained(message: Message) -> bool:
    """True for a turn of the assistant that the loss covers."""
    return message.role == "assistant" and message.trained


def _turn_start(template: ChatTemplate, chat: Chat, i: int, rendered: str, controls: re.Pattern) -> int:
    """Index in `rendered` (turns 0 ... i) at which turn i of the assistant begins: the end of its prompt."""
    if i == 0:  # many templates cannot render an empty conversation
        header = _turn_header(template, chat.context)
        place = rendered.find(header) if header else -1
        if place < 0:
            raise ValueError(
                "the conversation begins with the assistant's turn, which this chat template cannot render; "
                "put a turn of the user before it"
            )
        return place + len(header)
    before = render_marked(template, chat.messages[:i], prompt=True, context=chat.context)
    if rendered.startswith(before):
        return len(before)
    base = render_marked(template, chat.messages[:i], context=chat.context)
    if not (rendered.startswith(base) and before.startswith(base)):
        raise ValueError(_rewrite_message(template, i))
    return max(len(base), _prompt_boundary(before, rendered, controls))


def _turn_header(template: ChatTemplate, context: Context) -> str:
    """Text that the template writes before the assistant's content; "" if it also changes earlier text."""
    closed = render_marked(template, [PROBE], context=context)
    opened = render_marked(template, [PROBE], prompt=True, context=context)
    return opened[len(closed) :] if opened.startswith(closed) else ""


def _prompt_boundary(before: str, rendered: str, controls: re.Pattern) -> int:
    """Index in `rendered` at which the prompt `before` ends.

    If `rendered` does not begin with `before`, it is the end of the last control token or white space that
    they share, so that no word is cut.
    """
    shared = common_prefix_length(before, rendered)
    if shared == len(before):
        return shared
    ends = [match.end() for match in controls.finditer(rendered, 0, shared)]
    ends += [match.end() for match in BREAK.finditer(rendered, 0, shared)]
    return max(ends, default=0)


def _prompt_opening(template: ChatTemplate, chat: Chat, i: int, rendered: str, start: int) -> str:
    """Text of turn i that its generation prompt already contains, such as <think>."""
    base = render_marked(template, chat.messages[:i], context=chat.context) if i else ""
    return rendered[len(base) : start] if rendered.startswith(base) else ""


def _closing_token(
    template: ChatTemplate, chat: Chat, i: int, rendered: str, start: int, controls: re.Pattern
) -> str:
    """The control token that begins the next turn, if nothing else ends turn i; else ""."""
    if controls.search(rendered, start):
        return ""
    if i + 1 < len(chat.messages):
        before, following = chat.messages[: i + 1], chat.messages[i + 1]
    else:  # another turn of the user may change earlier turns, so probes show how such a turn begins
        before, following = [PROBE, ANSWER], PROBE
    try:
        shorter = render_marked(template, before, context=chat.context)
        longer = render_marked(template, [*before, following], context=chat.context)
    except ValueError:
        return ""
    token = controls.match(longer, len(shorter)) if longer.startswith(shorter) else None
    return token[0] if token else ""


def _turn_end(
    template: ChatTemplate, chat: Chat, i: int, rendered: str, start: int, controls: re.Pattern
) -> int:
    """Index in `rendered` at which turn i ends: after its last control token that ends no conversation."""
    tokens = list(controls.finditer(rendered, start))
    if len(tokens) < 2:
        return tokens[0].end() if tokens else len(rendered)
    try:
        longer = render_marked(template, chat.messages[: i + 1], prompt=True, context=chat.context)
    except ValueError:
        return tokens[-1].end()
    shared = common_prefix_length(rendered, longer)
    for token in tokens:
        if token.start() < shared < token.end():
            shared = token.start()
            break
    ends = [token.end() for token in tokens]
    last = max((end for end in ends if end <= shared), default=start)
    if rendered[last:shared].strip() or last == start:  # the turn's text is still open there
        last = min((end for end in ends if end > last), default=last)
    return last


def _rewrite_message(template: ChatTemplate, i: int) -> str:
    """Message for a template that rewrites earlier turns, so that its turns cannot be separated."""
    return (
        f"encode_chat: expected a chat template that appends each turn to the text before it; this one "
        f"changes the text up to turn {i + 1} when that turn or a later one is added, so its tokens "
        f"cannot be found; {suggest_template(template)}"
    )
