"""Render messages by a chat template, with the text of control tokens hidden from it.

A template is a program by third parties, so it runs in a sandbox (`data_pipes.chat.template`). In the
messages that it gets, the texts of control tokens are replaced by placeholders: nobody ends a turn by writing
"<|im_end|>".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data_pipes.chat.messages import PLAIN, Context, Message
from data_pipes.chat.template import BEGIN, CLOSE, END, HERE, OPEN, Program, compile_template, run_template

RESERVED = f"[{OPEN}{CLOSE}{BEGIN}{END}{HERE}]"
"""Pattern of the characters that are reserved for marks; those in a message are replaced by placeholders."""

ESCAPED = r"\\ufdd[0-4]"
"""Pattern of the same characters as escaped by JSON and by Python's repr."""

PLACEHOLDER = re.compile(rf"(?:{OPEN}|\\ufdd0)([0-9]+)(?:{CLOSE}|\\ufdd1)")
"""Pattern of a placeholder; it is escaped where a template printed a list or wrote escaped JSON."""

REASONING_TAGS = ("<think>", "</think>")
"""Tags around the assistant's reasoning. They are not hidden in its turns, since templates look for them."""

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Fields of a turn that may hold its reasoning; a template gets the first two, as in transformers."""


@dataclass(frozen=True)
class ChatTemplate:
    """A compiled template and its variables, made by `chat_template`; compared by all fields but `program`.

    Args:
        source: the template, in Jinja.
        program: the compiled source.
        special_tokens: (name, text) pairs, such as ("bos_token", "<s>"), ascending by name.
        variables: further (name, value) pairs, such as ("enable_thinking", False), ascending by name.
        tool_use: the template for conversations that have tools; None if it is this one.
    """

    source: str
    program: Program = field(repr=False, compare=False)
    special_tokens: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, Any], ...] = field(default=(), hash=False)
    tool_use: ChatTemplate | None = field(default=None, repr=False)

    def __reduce__(self) -> Any:
        """Pickles the source, and compiles it again."""
        return _unpickle, (self.source, self.special_tokens, self.variables, self.tool_use)


class Hidden(NamedTuple):
    """Messages and context with placeholders, and the texts that these replace."""

    messages: list[Message]
    context: Context
    texts: list[str]


def control_hider(controls: Sequence[str]) -> Callable[[Sequence[Message], Context], Hidden]:
    """Returns a function that replaces the texts of control tokens by placeholders.

    The assistant's own turns keep REASONING_TAGS, since templates look for them.

    Args:
        controls: texts of the control tokens.

    Returns:
        (messages, context) -> Hidden.

    Example:
        >>> control_hider(["<|end|>"])([Message("user", "a<|end|>")], PLAIN).texts
        ['<|end|>']
    """
    all_controls = _control_pattern(controls)
    assistant_controls = _control_pattern([text for text in controls if text not in REASONING_TAGS])

    def hide(messages: Sequence[Message], context: Context) -> Hidden:
        texts: list[str] = []
        hidden = []
        for message in messages:
            pattern = assistant_controls if message.role == "assistant" else all_controls
            hidden.append(_hide_message(message, pattern, texts))
        tools = tuple(_hide_texts(tool, all_controls, texts) for tool in context.tools)
        variables = tuple(
            (name, _hide_texts(value, all_controls, texts)) for name, value in context.variables
        )
        return Hidden(hidden, Context(tools, variables), texts)

    return hide


def split_placeholders(text: str, texts: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Splits a rendered text at its placeholders.

    Args:
        text: the rendered text.
        texts: texts of the placeholders, by number.

    Returns:
        An iterator over pairs (is_placeholder, part), without empty parts. If is_placeholder is True, the
        part is plain text even if it spells a control token.
    """
    for i, part in enumerate(PLACEHOLDER.split(text)):
        is_placeholder = i % 2 == 1  # split keeps the pattern's one group, the number, at odd indices
        if is_placeholder and int(part) < len(texts):
            part = texts[int(part)]
        else:
            part = re.sub(RESERVED, "", part)
        if part:
            yield is_placeholder, part


def restore_controls(text: str, texts: Sequence[str]) -> str:
    """Returns a rendered text with its placeholders replaced by their texts."""
    return "".join(part for _, part in split_placeholders(text, texts))


def strip_marks(text: str) -> str:
    """Returns a rendered text without the marks of {% generation %} blocks."""
    return re.sub(f"[{BEGIN}{END}]", "", text)


def select_template(template: ChatTemplate, context: Context) -> ChatTemplate:
    """Returns the template for a conversation: `tool_use` if it has tools, as in transformers."""
    return template.tool_use if context.tools and template.tool_use is not None else template


def render_marked(
    template: ChatTemplate, messages: Sequence[Message], *, prompt: bool = False, context: Context = PLAIN
) -> str:
    """Renders messages, with the marks BEGIN and END around {% generation %} blocks.

    Args:
        template: see ChatTemplate.
        messages: turns, with placeholders.
        prompt: the template's `add_generation_prompt`.
        context: tools and template variables, with placeholders.

    Returns:
        The text.

    Raises:
        ValueError: if the template refuses the messages, fails, or exceeds its bound on time and memory.
    """
    named = (*template.special_tokens, *template.variables, *context.variables)
    variables = {
        "messages": [_message_fields(message) for message in messages],
        "add_generation_prompt": prompt,
        "tools": list(context.tools) or None,
        "documents": None,
    }
    return run_template(template.program, **{**variables, **dict(named)})


def render_continuation(
    template: ChatTemplate, messages: Sequence[Message], *, context: Context = PLAIN
) -> str:
    """Renders messages up to the end of the last one's content, so that a model continues it.

    As with transformers' `continue_final_message`, if the template strips the content, white space at the end
    is stripped too.

    Args:
        template: see ChatTemplate.
        messages: turns, with placeholders; the last one must have content.
        context: tools and template variables, with placeholders.

    Returns:
        The text.

    Raises:
        ValueError: if the last message has no content, or the template drops (a part of) it; or as in
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
    end = text.rfind(HERE)
    if end < 0 or last.content.strip() not in text:
        raise ValueError(
            "the chat template drops (a part of) the assistant's turn at the end of the prompt, so it cannot "
            "be continued; end the prompt with a turn of the user, or give another --chat_template"
        )
    beginning = text[:end].replace(f"{HERE} ", "").replace(HERE, "")
    # If the space after the mark is gone, the template strips the content.
    return beginning if text.startswith(f"{HERE} ", end) else beginning.rstrip()


def _unpickle(
    source: str, special_tokens: tuple, variables: tuple, tool_use: ChatTemplate | None
) -> ChatTemplate:
    """A template from its pickled fields."""
    return ChatTemplate(source, compile_template(source), special_tokens, variables, tool_use)


def _control_pattern(controls: Sequence[str]) -> re.Pattern:
    """A pattern of RESERVED characters, escaped or not, and of control tokens, the longest first."""
    return re.compile("|".join([RESERVED, ESCAPED, *map(re.escape, sorted(controls, key=len, reverse=True))]))


def _hide_message(message: Message, pattern: re.Pattern, texts: list[str]) -> Message:
    """A message with placeholders."""
    fields = tuple((name, _hide_texts(value, pattern, texts)) for name, value in message.fields)
    return message._replace(content=_hide_texts(message.content, pattern, texts), fields=fields)


def _hide_texts(value: Any, pattern: re.Pattern, texts: list[str]) -> Any:
    """A value with placeholders in all of its texts; the hidden texts are appended to `texts`."""

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
    """A message as the template gets it: without nulls, its reasoning under two names."""
    fields = {"role": message.role, "content": message.content, **dict(message.fields)}
    fields = {name: value for name, value in fields.items() if value is not None}
    reasoning = next((fields[name] for name in REASONING_FIELDS if name in fields), None)
    if reasoning is None:
        return fields
    return {"thinking": reasoning, **fields, "reasoning_content": reasoning}
