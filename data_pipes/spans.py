"""The assistant's spans: which pieces of a rendered conversation are learned.

A template says so itself with {% generation %} blocks. Where it has none, a turn of the assistant is what it adds to
the text before it, up to and with the control token that ends it. A template that changes earlier turns once a later
one is there (thoughts left out) has no such spans, and is refused with the name of one that has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from data_pipes.messages import Context, Message
from data_pipes.rendering import REASONING, ChatTemplate, bare, open_text, text_of
from data_pipes.template import BEGIN, END, HERE

PROBE = Message("user", "a")
"""A turn that any template takes, to see how it begins an answer."""

FITTING = (("<｜Assistant｜>", "deepseek-r1"), ("</think>", "qwen3"), ("<|im_start|>", "qwen2.5"),
           ("<|start_header_id|>", "llama3"))  # fmt: skip
"""(a text in a template's source, the template of `data_pipes.templates` that fits it)."""


class Chat(NamedTuple):
    """A conversation with placeholders, of which the assistant's turns from number `first` on are learned.

    Fields:
        messages: all turns.
        context: tools and variables.
        prompt: turns that were given before what is learned; () where everything is learned. Its last turn may be the
            beginning of messages[first].
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


def spans(template: ChatTemplate, chat: Chat, controls: re.Pattern) -> list[Span]:
    """Renders a conversation and cuts it.

    Args:
        template: see `data_pipes.chat.chat_template`.
        chat: with placeholders.
        controls: pattern of the control tokens.

    Returns:
        Spans, none of them empty.

    Raises:
        ValueError: if the template leaves out or changes what is to be learned, or rewrites earlier turns; or as in
            `text_of`.
    """
    text = text_of(template, chat.messages, context=chat.context)
    check_shown(template, chat.messages, chat.context, text)
    _check_learned(template, chat, text)
    found = (
        _marked(template, chat, text, controls) if template.program.marked else _turns(template, chat, text, controls)
    )
    return [span for span in found if span.text]


def prompt_text(template: ChatTemplate, messages: Sequence[Message], context: Context) -> str:
    """Renders what a model is to answer: up to the beginning of its turn, or of what it has said so far.

    Args:
        template: see `data_pipes.chat.chat_template`.
        messages: with placeholders; where the last is the assistant's, it is continued.
        context: with placeholders.

    Returns:
        The text.

    Raises:
        ValueError: if the template leaves out a turn that is not the assistant's; or as in `open_text`.
    """
    if messages and messages[-1].role == "assistant":
        text = open_text(template, messages, context=context)
    else:
        text = bare(text_of(template, messages, prompt=True, context=context))
    check_shown(template, messages, context, text)
    return text


def check_shown(template: ChatTemplate, messages: Sequence[Message], context: Context, text: str) -> None:
    """Refuses a rendering in which something is missing that the messages say.

    Args:
        template: see `data_pipes.chat.chat_template`.
        messages, context: with placeholders.
        text: what the template made of them.

    Raises:
        ValueError: if tools, tool calls, or the content of a turn that is not the assistant's are left out.
    """
    if context.tools and "tools" not in template.program.names:
        raise ValueError("the chat template does not show `tools`; drop them, or give a --chat_template that does")
    for i, message in enumerate(messages):
        for name in ("tool_calls", "function_call"):
            if dict(message.fields).get(name) and name not in template.source:
                raise ValueError(
                    f"the chat template does not show `{name}` of turn {i}; give a --chat_template that does"
                )
        said = (message.content or "").strip()
        if said and message.role != "assistant" and said not in text and not _within(said, text):
            if json.dumps(said, ensure_ascii=False)[1:-1] in text or _shows(template, messages, i, context):
                continue
            raise ValueError(
                f"the chat template leaves out turn {i}, of the {message.role}; drop that turn, or give a "
                "--chat_template that shows it"
            )


def shared(a: str, b: str) -> int:
    """Returns with how many characters both texts begin."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # slices compare quickly, characters do not
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _check_learned(template: ChatTemplate, chat: Chat, text: str) -> None:
    """Refuses a conversation whose last answer, or the thoughts of any, cannot be seen in the text."""
    learned = [i for i, message in enumerate(chat.messages)
               if i >= chat.first and message.role == "assistant" and message.trained]  # fmt: skip
    for i in learned:
        message = chat.messages[i]
        if _thoughts(message) and not any(name in template.source for name in REASONING[:2]):
            raise ValueError(
                f"the chat template does not show `reasoning_content`, the thoughts of turn {i}, which are to be "
                "learned; drop them, or give a --chat_template that shows them, such as qwen3 for Qwen3"
            )
        if i == learned[-1]:
            _check_said(template, message, i, text)


def _within(said: str, text: str) -> bool:
    """Whether a text is in another, whatever the white space."""
    return "".join(said.split()) in "".join(text.split())


def _shows(template: ChatTemplate, messages: Sequence[Message], i: int, context: Context) -> bool:
    """Whether what turn i says reaches the text, however changed."""
    marked = [*messages[:i], messages[i]._replace(content=f"{messages[i].content}{HERE}"), *messages[i + 1 :]]
    try:
        return HERE in text_of(template, marked, context=context)
    except ValueError:
        return False


def _marked(template: ChatTemplate, chat: Chat, text: str, controls: re.Pattern) -> list[Span]:
    """Pieces of a text with {% generation %} blocks, which are learned behind the prompt."""
    first = 0
    if chat.prompt:
        before, after = prompt_text(template, chat.prompt, chat.context), bare(text)
        first = _boundary(before, after, controls)
    depth, place, found = 0, 0, []
    for piece in re.split(f"([{BEGIN}{END}])", text):
        if piece in (BEGIN, END):
            depth += 1 if piece == BEGIN else -1
            continue
        cut = min(max(first - place, 0), len(piece)) if depth > 0 else 0
        found += [Span(piece[:cut], False), Span(piece[cut:], depth > 0)]
        place += len(piece)
    return _without_untrained(chat, text, found)


def _without_untrained(chat: Chat, text: str, found: list[Span]) -> list[Span]:
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
    places = [(len(bare(text[: block.start()])), len(bare(text[: block.end()]))) for block in blocks]
    unread = [place for place, keep in zip(places, said, strict=True) if not keep]
    place, kept = 0, []
    for span in found:
        inside = any(a <= place and place + len(span.text) <= b for a, b in unread)
        kept.append(Span(span.text, span.trained and not inside))
        place += len(span.text)
    return kept


def _turns(template: ChatTemplate, chat: Chat, text: str, controls: re.Pattern) -> Iterator[Span]:
    """Pieces of a text whose template marks nothing: what each turn of the assistant adds is learned."""
    done = 0
    for i, message in enumerate(chat.messages):
        if message.role != "assistant" or not message.trained or i < chat.first:
            continue
        whole = i == len(chat.messages) - 1
        after = text if whole else text_of(template, chat.messages[: i + 1], context=chat.context)
        start = _start(template, chat, i, after, controls)
        end = _end(template, chat, i, after, start, controls)
        if start < done or not text.startswith(after[:end]):
            raise ValueError(_rewrites(template, i))
        _check_said(template, message, i, after[start:end])
        if i == chat.first and chat.prompt and chat.prompt[-1].role == "assistant":
            given = prompt_text(template, chat.prompt, chat.context)
            if not start <= len(given) <= end or not text.startswith(given):
                raise ValueError(_rewrites(template, i))
            start = len(given)
        yield Span(text[done:start], False)
        yield Span(text[start:end], True)
        done = end
    yield Span(text[done:], False)


def _start(template: ChatTemplate, chat: Chat, i: int, after: str, controls: re.Pattern) -> int:
    """Where the assistant's turn begins in the text that ends with it: after what a prompt would end with."""
    if i == 0:  # many templates cannot render a prompt of nothing
        header = _header(template, chat.context)
        place = after.find(header) if header else -1
        if place < 0:
            raise ValueError("the conversation begins with the assistant's turn, which this chat template cannot show")
        return place + len(header)
    before = text_of(template, chat.messages[:i], prompt=True, context=chat.context)
    if after.startswith(before):
        return len(before)
    base = text_of(template, chat.messages[:i], context=chat.context)
    if not (after.startswith(base) and before.startswith(base)):
        raise ValueError(_rewrites(template, i))
    return max(len(base), _boundary(before, after, controls))


def _header(template: ChatTemplate, context: Context) -> str:
    """How the template begins the assistant's turn."""
    closed, opened = (text_of(template, [PROBE], prompt=prompt, context=context) for prompt in (False, True))
    return opened[len(closed) :] if opened.startswith(closed) else ""


def _boundary(before: str, after: str, controls: re.Pattern) -> int:
    """Where a prompt ends in the text that follows it: after the last control token that they share, if they differ."""
    same = shared(before, after)
    if same == len(before):
        return same
    return max((match.end() for match in controls.finditer(after) if match.end() <= same), default=0)


def _end(template: ChatTemplate, chat: Chat, i: int, after: str, start: int, controls: re.Pattern) -> int:
    """Where the assistant's turn ends: after its last control token, those that only end a conversation left out."""
    ends = [match.end() for match in controls.finditer(after, start)]
    if len(ends) < 2:
        return ends[0] if ends else len(after)
    try:
        more = text_of(template, chat.messages[: i + 1], prompt=True, context=chat.context)
    except ValueError:
        return ends[-1]
    same = shared(after, more)
    same = next(
        (match.start() for match in controls.finditer(after, start) if match.start() < same < match.end()), same
    )
    last = max((end for end in ends if end <= same), default=start)
    if after[last:same].strip() or last == start:  # what is said is still open there
        last = min((end for end in ends if end > last), default=last)
    return last


def _check_said(template: ChatTemplate, message: Message, i: int, turn: str) -> None:
    """Refuses a turn in which something is missing that the assistant says."""
    said = [("content", message.content), *(("tool call", name) for name in _calls(dict(message.fields)))]
    for what, value in [*said, ("thoughts", _thoughts(message))]:
        if isinstance(value, str) and not _within(value, turn):
            raise ValueError(
                f"the chat template leaves out or changes (a part of) the {what} of turn {i}, which is to be learned; "
                f"{_advice(template)}"
            )


def _thoughts(message: Message) -> Any:
    """What the assistant thinks before it answers, None where it has no field of its own."""
    fields = dict(message.fields)
    return next((fields[name] for name in REASONING if fields.get(name) is not None), None)


def _calls(fields: dict[str, Any]) -> Iterator[Any]:
    """Names of the functions that a turn calls."""
    calls = fields.get("tool_calls")
    for call in [*(calls if isinstance(calls, list | tuple) else ()), fields.get("function_call")]:
        found = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(found, dict):
            yield found.get("name")


def _rewrites(template: ChatTemplate, i: int) -> str:
    """A refusal of a template whose turns cannot be told apart."""
    return (
        f"encode_chat: expected a chat template that adds each turn after what stands there already, and this one "
        f"changes the text up to turn {i} once that turn or a later one is there, so its tokens cannot be told apart; "
        f"{_advice(template)}"
    )


def _advice(template: ChatTemplate) -> str:
    """What to do about a template that cannot be learned from."""
    name = next((f"give --chat_template {name}, or " for text, name in FITTING if text in template.source), "")
    if template.program.marked:
        return f"{name}write all of it in the template"
    return f"{name}put {{% generation %}} and {{% endgeneration %}} around what the assistant says in the template"
