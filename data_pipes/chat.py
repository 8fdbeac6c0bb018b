"""Chat templates: messages to text, text to tokens, and which of the tokens are the assistant's.

A model sees one row of tokens; that it is a conversation, control tokens say. A template is the little program that
puts them in. It came with a model, written by a stranger, so it runs in a sandbox (`data_pipes.template`).

Shape letters: n tokens of one conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from data_pipes.messages import PLAIN, Context, Message
from data_pipes.template import BEGIN, CLOSE, END, OPEN, Program, compiled, run
from data_pipes.tokenizer.spec import Tokenizer, special_tokens

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""How messages become text: <|im_start|>role, a new line, the content, <|im_end|>, a new line."""

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
"""The form of Llama 3: a header, a blank line, the content without white space around it, <|eot_id|>."""

RESERVED = f"[{OPEN}{CLOSE}{BEGIN}{END}]"
"""What no message may bring into a template, as a pattern."""


OnError = Callable[[int, ValueError], Any]
"""What to do with a conversation that the template refuses: gets its number among those that were given, and why."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it may name; made by `chat_template`. Equal ones have equal sources, tokens and variables.

    Args:
        source: jinja2.
        program: the source, compiled.
        special_tokens: (name, text) pairs, such as ("bos_token", "<s>"), ascending by name.
        variables: further (name, value) pairs, such as ("enable_thinking", False), ascending by name.
    """

    source: str
    program: Program = field(repr=False, compare=False)
    special_tokens: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, Any], ...] = field(default=(), hash=False)

    def __reduce__(self) -> Any:
        """Pickles as its source, and compiles again."""
        return _made, (self.source, self.special_tokens, self.variables)


class Encoded(NamedTuple):
    """A conversation as tokens.

    Fields:
        tokens: [n] int64.
        trained: [n] bool, True on the assistant's tokens: what it says, and the token that ends its turn.
    """

    tokens: np.ndarray
    trained: np.ndarray


class _Job(NamedTuple):
    """A conversation to encode, whose assistant's turns from number `first` on are trained."""

    messages: Sequence[Message]
    context: Context
    first: int
    add_generation_prompt: bool


class _Span(NamedTuple):
    """A piece of rendered text that is encoded by itself."""

    text: str
    trained: bool


def chat_template(
    source: str = CHATML,
    *,
    bos_token: str = "",
    eos_token: str = "",
    special_tokens: Mapping[str, str] = MappingProxyType({}),
    variables: Iterable[tuple[str, Any]] = (),
) -> ChatTemplate:
    """Compiles a template.

    Args:
        source: jinja2; CHATML, LLAMA3, or what came with a model.
        bos_token: text of the token that begins a conversation, such as "<|begin_of_text|>"; "" for none.
        eos_token: text of the token that ends one; "" for none.
        special_tokens: text of each special token that the template may name: {"bos_token": ..., "eos_token": ...,
            "unk_token": ..., "pad_token": ...}. As in transformers, a token that the tokenizer does not have is not
            defined in the template: leave it out, or give "".
        variables: (name, value) pairs that the template may name; a row's own (`Context.variables`) win.

    Returns:
        ChatTemplate.

    Raises:
        ValueError: if it does not compile, with the line; if a special token is given twice with different texts, or
            a name is none that a template can use.

    Example:
        >>> chat_template("{{ eos_token }}", eos_token="</s>")
        ChatTemplate(source='{{ eos_token }}', special_tokens=(('eos_token', '</s>'),), variables=())
    """
    tokens = {name: text for name, text in special_tokens.items() if text}
    for name, text in (("bos_token", bos_token), ("eos_token", eos_token)):
        if text and tokens.setdefault(name, text) != text:
            raise ValueError(f"chat_template: {name} is {text!r}, and {tokens[name]!r} in special_tokens; give it once")
    named = dict(variables)
    for name in (*tokens, *named):
        if not name.isidentifier():
            raise ValueError(f"chat_template: a template can name no variable {name!r}; use letters, digits and _")
    return ChatTemplate(source, compiled(source), tuple(sorted(tokens.items())), tuple(sorted(named.items())))


def render(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    context: Context = PLAIN,
) -> str:
    """Writes messages as one text.

    Args:
        template: see `chat_template`.
        messages: any number.
        add_generation_prompt: end with the beginning of an assistant's turn.
        context: tools and template variables of the row.

    Returns:
        The text, control tokens in it.

    Raises:
        ValueError: if the template refuses the messages, fails, loops for ever or writes without end.

    Example:
        >>> render(chat_template(), [Message("user", "Hi")], add_generation_prompt=True)
        '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
    """
    guarded, hidden = _guard(messages, ())
    return _restore(_bare(_text(template, guarded, add_generation_prompt, context)), hidden)


def encode_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    context: Context = PLAIN,
) -> Encoded:
    """Encodes one conversation: `encode_chats` of one.

    Args:
        template: as there.
        tokenizer: as there.
        messages: of the conversation.
        add_generation_prompt: as there.
        context: of the conversation.

    Returns:
        Encoded(tokens [n], trained [n]).

    Raises:
        ValueError: as there.
    """
    return encode_chats(
        template, tokenizer, [messages], add_generation_prompt=add_generation_prompt, contexts=[context]
    )[0]


def encode_chats(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    chats: Iterable[Sequence[Message]],
    *,
    add_generation_prompt: bool = False,
    contexts: Iterable[Context] | None = None,
    on_error: OnError | None = None,
) -> list[Encoded]:
    """Encodes conversations, and marks what the assistant said.

    Each span is encoded by itself, so that training sees the very tokens that generation will: the prompt's, then the
    completion's. The text of a control token inside a message stays text: nobody ends a turn by writing "<|im_end|>".

    Args:
        template: see `chat_template`.
        tokenizer: whose control tokens the template uses.
        chats: messages of each; the more at once, the faster.
        add_generation_prompt: end with the beginning of an assistant's turn, as a prompt to be answered does.
        contexts: tools and template variables of each conversation; None: they have none.
        on_error: gets the number of each conversation that the template refuses, and the error; it is then left out
            of what is returned. None raises the first.

    Returns:
        Encoded(tokens [n], trained [n]) for each. The tokens of messages[:i] with a generation prompt are those with
        which messages[: i + 1] begins, i being a turn of the assistant.

    Steps:
        1. Hide the text of control tokens in the messages, and render.
        2. Find the assistant's spans: what {% generation %} blocks hold; else what each of its turns adds to the text
           before it, up to and with the first control token behind the content (white space after that is nobody's).
        3. Encode the pieces of all conversations in two batches: with control tokens, and as plain text.

    Edge cases: no message gives no token; without control tokens in the template, a whole turn is the assistant's.

    Raises:
        ValueError: if the template rewrites what stands before a turn once the turn is there, so that the spans cannot
            be told apart, or as in `render` (both go to on_error, if it is given); or as in the tokenizer's `encode`.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["a b"], 300, special_tokens=["<|im_start|>", "<|im_end|>"])
        >>> found = encode_chats(chat_template(), tokenizer, [[Message("user", "a"), Message("assistant", "b")]])[0]
        >>> tokenizer.decode(found.tokens[found.trained])
        'b<|im_end|>'
    """
    pairs = zip(chats, repeat(PLAIN)) if contexts is None else zip(chats, contexts, strict=True)
    jobs = (_Job(messages, context, 0, add_generation_prompt) for messages, context in pairs)
    # 1., 2. and 3. As for completions.
    return _encoded(template, tokenizer, jobs, on_error)


def encode_completions(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    pairs: Iterable[tuple[Sequence[Message], Sequence[Message]]],
    *,
    contexts: Iterable[Context] | None = None,
    on_error: OnError | None = None,
) -> list[Encoded]:
    """Encodes prompts with their completions: as `encode_chats`, and only the completion's turns are trained.

    Args:
        template: as there.
        tokenizer: as there.
        pairs: (messages of the prompt, messages of the completion) of each.
        contexts: as there.
        on_error: as there.

    Returns:
        Encoded(tokens [n], trained [n]) for each.

    Raises:
        ValueError: as there.
    """
    rows = zip(pairs, repeat(PLAIN)) if contexts is None else zip(pairs, contexts, strict=True)
    jobs = (_Job((*prompt, *said), context, len(prompt), False) for (prompt, said), context in rows)
    return _encoded(template, tokenizer, jobs, on_error)


def _encoded(
    template: ChatTemplate, tokenizer: Tokenizer, jobs: Iterable[_Job], on_error: OnError | None
) -> list[Encoded]:
    """What `encode_chats` returns, and its steps."""
    controls = tuple(special_tokens(tokenizer))
    texts: tuple[list[str], list[str]] = ([], [])
    pieces: list[list[tuple[int, int, bool]]] = []
    for number, job in enumerate(jobs):
        # Hide,
        guarded, hidden = _guard(job.messages, controls)
        # render, cut,
        try:
            spans = _spans(template, job._replace(messages=guarded), controls)
        except ValueError as error:
            if on_error is None:
                raise
            on_error(number, error)
            continue
        pieces.append([])
        for text, trained in spans:
            for plain, part in _parts(text, hidden):
                pieces[-1].append((plain, len(texts[plain]), trained))
                texts[plain].append(part)
    # and encode.
    ids = tokenizer.encode_batch(texts[0], special="all"), tokenizer.encode_batch(texts[1], special="none")
    return [_joined([(ids[plain][i], trained) for plain, i, trained in chat]) for chat in pieces]


def _made(source: str, special_tokens: tuple, variables: tuple) -> ChatTemplate:
    """A template that was pickled."""
    return chat_template(source, special_tokens=dict(special_tokens), variables=variables)


def _joined(pieces: Sequence[tuple[np.ndarray, bool]]) -> Encoded:
    """Spans side by side."""
    tokens = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in pieces)])
    trained = np.repeat(np.array([mark for _, mark in pieces], bool), [len(ids) for ids, _ in pieces])
    return Encoded(tokens, trained)


def _guard(messages: Sequence[Message], controls: Sequence[str]) -> tuple[list[Message], list[str]]:
    """Messages with OPEN number CLOSE in the place of texts that shall not be read as control; and these texts."""
    pattern = "|".join([RESERVED, *map(re.escape, sorted(controls, key=len, reverse=True))])
    hidden: list[str] = []

    def hide(match: re.Match) -> str:
        hidden.append(match[0])
        return f"{OPEN}{len(hidden) - 1}{CLOSE}"

    def guard(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(pattern, hide, value)
        if isinstance(value, Mapping):
            return {guard(name): guard(x) for name, x in value.items()}
        return [guard(x) for x in value] if isinstance(value, list | tuple) else value

    return [
        message._replace(content=guard(message.content), fields=tuple((name, guard(x)) for name, x in message.fields))
        for message in messages
    ], hidden


def _parts(text: str, hidden: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Text -> (whether it is plain whatever it spells, the part), no empty ones."""
    for i, part in enumerate(re.split(f"{OPEN}([0-9]+){CLOSE}", text)):
        found = hidden[int(part)] if i % 2 and int(part) < len(hidden) else re.sub(RESERVED, "", part)
        if found:
            yield i % 2 == 1, found


def _restore(text: str, hidden: Sequence[str]) -> str:
    """The text with what was hidden in it."""
    return "".join(part for _, part in _parts(text, hidden))


def _text(template: ChatTemplate, messages: Sequence[Message], add_generation_prompt: bool, context: Context) -> str:
    """Renders, with BEGIN and END left in."""
    variables = {
        "messages": [{"role": turn.role, "content": turn.content, **dict(turn.fields)} for turn in messages],
        "add_generation_prompt": add_generation_prompt,
        "tools": list(context.tools) or None,
        "documents": None,
    }
    given = (*template.special_tokens, *template.variables, *context.variables)
    return run(template.program, **{**variables, **dict(given)})


def _spans(template: ChatTemplate, job: _Job, controls: Sequence[str]) -> list[_Span]:
    """A conversation as pieces of text, and which are the assistant's."""
    messages, context = job.messages, job.context
    text = _text(template, messages, job.add_generation_prompt, context)
    if BEGIN in text or re.search(r"{%[-+]?\s*generation\b", template.source):
        before = _text(template, messages[: job.first], True, context) if job.first else ""
        return _marked(text, _shared(_bare(before), _bare(text)))
    spans: list[_Span] = []
    done = 0
    for i, message in enumerate(messages):
        if message.role == "assistant" and i >= job.first:
            before, after = (_text(template, messages[:n], n == i, context) for n in (i, i + 1))
            if not (len(before) >= done and after.startswith(before) and text.startswith(after)):
                raise ValueError(
                    f"encode_chat: expected a template that adds each turn behind what stands there already, and this "
                    f"one changes the text before turn {i} once that turn, or a later one, is there; so its tokens "
                    "cannot be told apart: put {% generation %} and {% endgeneration %} around what the assistant "
                    "says in the template"
                )
            end = len(before) + _end(after[len(before) :], message.content or "", controls)
            spans += [_Span(text[done : len(before)], False), _Span(text[len(before) : end], True)]
            spans.append(_Span(text[end : len(after)], False))
            done = len(after)
    return [*spans, _Span(text[done:], False)]


def _bare(text: str) -> str:
    """A text without the marks of {% generation %}."""
    return re.sub(f"[{BEGIN}{END}]", "", text)


def _shared(a: str, b: str) -> int:
    """With how many characters both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _marked(text: str, first: int) -> list[_Span]:
    """Pieces of a text with marks: what is between two of them is the assistant's, from character `first` on."""
    spans: list[_Span] = []
    for i, piece in enumerate(re.split(f"[{BEGIN}{END}]", text)):
        cut = min(first, len(piece)) if i % 2 else 0
        spans += [_Span(piece[:cut], False), _Span(piece[cut:], i % 2 == 1)]
        first -= min(first, len(piece))
    return [span for span in spans if span.text]


def _end(turn: str, content: str, controls: Sequence[str]) -> int:
    """Where the assistant's turn ends: behind the first control token that follows the content."""
    control = re.compile("|".join(map(re.escape, controls)) or r"(?!)")
    seen = control.sub(lambda match: OPEN * len(match[0]), turn)  # a content of "end" is not found in "<|im_end|>"
    said = content.strip()
    found = control.search(turn, max(seen.find(said), 0) + len(said))
    return found.end() if found else len(turn)
