"""Messages to text by a chat template, and back to what the messages said where that must stay plain text.

A template came with a model, written by a stranger, so it runs in a sandbox (`data_pipes.chat.template`), and
it sees messages in which the texts of control tokens are replaced by placeholders: nobody ends a turn by
writing "<|im_end|>".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data_pipes.chat.messages import PLAIN, Context, Message
from data_pipes.chat.template import BEGIN, CLOSE, END, HERE, OPEN, Program, compile_template, run_template

RESERVED = f"[{OPEN}{CLOSE}{BEGIN}{END}{HERE}]"
"""Characters that no message may bring into a template, as a pattern."""

ESCAPED = r"\\ufdd[0-4]"
"""The same, as JSON and Python's repr write them."""

PLACEHOLDER = re.compile(rf"(?:{OPEN}|\\ufdd0)([0-9]+)(?:{CLOSE}|\\ufdd1)")
"""What stands for a text that the template shall not see; escaped where a template printed a list, or escaped
JSON."""

REASONING_TAGS = ("<think>", "</think>")
"""Control tokens that the assistant itself writes around its thoughts: templates look for them in its
turns."""

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names under which rows keep the assistant's thoughts; a template sees the first two, as in transformers."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it may name; made by `chat_template`. Equal ones have equal sources, tokens and
    variables.

    Args:
        source: jinja2.
        program: the source, compiled.
        special_tokens: (name, text) pairs, such as ("bos_token", "<s>"), ascending by name.
        variables: further (name, value) pairs, such as ("enable_thinking", False), ascending by name.
        tool_use: what renders conversations that have tools, if that is another template.
    """

    source: str
    program: Program = field(repr=False, compare=False)
    special_tokens: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, Any], ...] = field(default=(), hash=False)
    tool_use: ChatTemplate | None = field(default=None, repr=False)

    def __reduce__(self) -> Any:
        """Pickles as its source, and compiles again."""
        return _unpickle, (self.source, self.special_tokens, self.variables, self.tool_use)


class Hidden(NamedTuple):
    """Messages and context with placeholders, and the texts that these stand for."""

    messages: list[Message]
    context: Context
    texts: list[str]


def control_hider(controls: Sequence[str]) -> Callable[[Sequence[Message], Context], Hidden]:
    """Returns a function that puts placeholders in the place of control tokens' texts.

    The assistant's own turns keep THOUGHTS, which its template looks for.

    Args:
        controls: texts of the control tokens.

    Returns:
        (messages, context) -> Hidden.

    Example:
        >>> control_hider(["<|end|>"])([Message("user", "a<|end|>")], PLAIN).texts
        ['<|end|>']
    """
    every, own = (
        _control_pattern(controls),
        _control_pattern([text for text in controls if text not in REASONING_TAGS]),
    )

    def hide(messages: Sequence[Message], context: Context) -> Hidden:
        texts: list[str] = []
        kept = [
            _hide_message(message, own if message.role == "assistant" else every, texts)
            for message in messages
        ]
        tools = tuple(_hide_texts(tool, every, texts) for tool in context.tools)
        variables = tuple((name, _hide_texts(value, every, texts)) for name, value in context.variables)
        return Hidden(kept, Context(tools, variables), texts)

    return hide


def split_placeholders(text: str, texts: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Cuts a rendered text at its placeholders.

    Args:
        text: rendered.
        texts: what the placeholders stand for.

    Returns:
        An iterator over (whether the part is plain text whatever it spells, the part); no empty ones.
    """
    for i, part in enumerate(PLACEHOLDER.split(text)):
        found = texts[int(part)] if i % 2 and int(part) < len(texts) else re.sub(RESERVED, "", part)
        if found:
            yield i % 2 == 1, found


def restore_controls(text: str, texts: Sequence[str]) -> str:
    """Returns a rendered text with what the placeholders stand for."""
    return "".join(part for _, part in split_placeholders(text, texts))


def strip_marks(text: str) -> str:
    """Returns a rendered text without the marks of {% generation %} blocks."""
    return re.sub(f"[{BEGIN}{END}]", "", text)


def select_template(template: ChatTemplate, context: Context) -> ChatTemplate:
    """Returns the template that renders a conversation: the one for tools where it has tools, as in
    transformers."""
    return template.tool_use if context.tools and template.tool_use is not None else template


def render_marked(
    template: ChatTemplate, messages: Sequence[Message], *, prompt: bool = False, context: Context = PLAIN
) -> str:
    """Renders messages; BEGIN and END of {% generation %} blocks are left in.

    Args:
        template: see ChatTemplate.
        messages: with placeholders.
        prompt: the template's `add_generation_prompt`.
        context: with placeholders.

    Returns:
        The text.

    Raises:
        ValueError: if the template refuses the messages, fails, loops for ever or writes without end.
    """
    given = (*template.special_tokens, *template.variables, *context.variables)
    variables = {
        "messages": [_message_fields(message) for message in messages],
        "add_generation_prompt": prompt,
        "tools": list(context.tools) or None,
        "documents": None,
    }
    return run_template(template.program, **{**variables, **dict(given)})


def render_continuation(
    template: ChatTemplate, messages: Sequence[Message], *, context: Context = PLAIN
) -> str:
    """Renders messages up to the end of what the last one says, so that a model continues it.

    As transformers' `continue_final_message`: where the template strips the content, the end is stripped too.

    Args:
        template: see ChatTemplate.
        messages: with placeholders; the last one has a content.
        context: with placeholders.

    Returns:
        The text.

    Raises:
        ValueError: if the last message has no content, or the template leaves (part of) it out; or as in
            `render_marked`.

    Example:
        >>> from data_pipes.chat.template import compile_template
        >>> template = ChatTemplate("{% for m in messages %}<{{ m.content }}>{% endfor %}", compile_template(
        ...     "{% for m in messages %}<{{ m.content }}>{% endfor %}"))
        >>> render_continuation(template, [Message("user", "a"), Message("assistant", "b")])
        '<a><b'
    """
    last = messages[-1]
    if last.content is None:
        raise ValueError("the prompt ends with a turn of the assistant that has no content to continue")
    marked = last._replace(content=f"{last.content}{HERE} ")
    text = strip_marks(render_marked(template, [*messages[:-1], marked], context=context))
    place = text.rfind(HERE)
    if place < 0 or last.content.strip() not in text:
        raise ValueError(
            "the chat template leaves out (a part of) the assistant's turn that the prompt ends with, so it cannot be "
            "continued; end the prompt with the user's turn, or give another --chat_template"
        )
    begun = text[:place].replace(f"{HERE} ", "").replace(HERE, "")
    return begun if text.startswith(f"{HERE} ", place) else begun.rstrip()


def _unpickle(
    source: str, special_tokens: tuple, variables: tuple, tool_use: ChatTemplate | None
) -> ChatTemplate:
    """A template that was pickled."""
    return ChatTemplate(source, compile_template(source), special_tokens, variables, tool_use)


def _control_pattern(controls: Sequence[str]) -> re.Pattern:
    """RESERVED characters and control tokens, the longest first."""
    return re.compile("|".join([RESERVED, ESCAPED, *map(re.escape, sorted(controls, key=len, reverse=True))]))


def _hide_message(message: Message, pattern: re.Pattern, texts: list[str]) -> Message:
    """A message with placeholders."""
    fields = tuple((name, _hide_texts(value, pattern, texts)) for name, value in message.fields)
    return message._replace(content=_hide_texts(message.content, pattern, texts), fields=fields)


def _hide_texts(value: Any, pattern: re.Pattern, texts: list[str]) -> Any:
    """A value with placeholders in all of its texts; what they stand for is appended to `texts`."""

    def hide(match: re.Match) -> str:
        texts.append(match[0])
        return f"{OPEN}{len(texts) - 1}{CLOSE}"

    if isinstance(value, str):
        return pattern.sub(hide, value)
    if isinstance(value, Mapping):
        return {
            _hide_texts(name, pattern, texts): _hide_texts(x, pattern, texts) for name, x in value.items()
        }
    return [_hide_texts(x, pattern, texts) for x in value] if isinstance(value, list | tuple) else value


def _message_fields(message: Message) -> dict[str, Any]:
    """A message as the template sees it: without what is None, and thoughts under both of their names."""
    given = {"role": message.role, "content": message.content, **dict(message.fields)}
    found = {name: value for name, value in given.items() if value is not None}
    thoughts = next((found[name] for name in REASONING_FIELDS if name in found), None)
    return found if thoughts is None else {"thinking": thoughts, **found, "reasoning_content": thoughts}
