"""Chat templates: messages to text, text to tokens, and which of the tokens are the assistant's.

A model sees one row of tokens; that it is a conversation, control tokens say. A template is the little
program that puts them in (`data_pipes.chat.rendering`). The ids are those of transformers'
`apply_chat_template`.

Shape letters: n tokens of one conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from data_pipes.chat.batch_encoding import (
    Cut,
    OnError,
    PromptCompletion,
    cut_completion,
    cut_prompt,
    cut_with_generation_prompt,
    encode_conversations,
)
from data_pipes.chat.messages import PLAIN, Context, Message
from data_pipes.chat.presets import CHATML
from data_pipes.chat.rendering import (
    ChatTemplate,
    control_hider,
    render_marked,
    restore_controls,
    select_template,
    strip_marks,
)
from data_pipes.chat.template import compile_template
from data_pipes.tokenizer.spec import Tokenizer


class Encoded(NamedTuple):
    """A conversation as tokens.

    Fields:
        tokens: [n] int64.
        trained: [n] bool, True on the assistant's tokens: what it says, and the token that ends its turn.
    """

    tokens: np.ndarray
    trained: np.ndarray


def chat_template(
    source: str = CHATML,
    *,
    bos_token: str = "",
    eos_token: str = "",
    special_tokens: Mapping[str, str] = MappingProxyType({}),
    variables: Iterable[tuple[str, Any]] = (),
    tool_use: str | None = None,
) -> ChatTemplate:
    """Compiles a template.

    Args:
        source: jinja2; one of `data_pipes.chat.presets`, or what came with a model.
        bos_token: text of the token that begins a conversation, such as "<|begin_of_text|>"; "" for none.
        eos_token: text of the token that ends one; "" for none.
        special_tokens: text of each special token that the template may name: {"bos_token": ..., "eos_token":
            ..., "unk_token": ..., "pad_token": ...}. As in transformers, a token that the tokenizer does not
            have is not defined in the template: leave it out, or give "".
        variables: (name, value) pairs that the template may name; a row's own (`Context.variables`) win.
        tool_use: jinja2 for conversations that have tools; None takes the same.

    Returns:
        ChatTemplate.

    Raises:
        ValueError: if it does not compile, with the line; if a special token is given twice with different
            texts, or a name is none that a template can use.

    Example:
        >>> chat_template("{{ eos_token }}", eos_token="</s>")
        ChatTemplate(source='{{ eos_token }}', special_tokens=(('eos_token', '</s>'),), variables=())
    """
    tokens = {name: text for name, text in special_tokens.items() if text}
    for name, text in (("bos_token", bos_token), ("eos_token", eos_token)):
        if text and tokens.setdefault(name, text) != text:
            raise ValueError(
                f"chat_template: {name} is {text!r}, and {tokens[name]!r} in special_tokens; give it once"
            )
    named = dict(variables)
    for name in (*tokens, *named):
        if not name.isidentifier():
            raise ValueError(
                f"chat_template: a template can name no variable {name!r}; use letters, digits and _"
            )
    given = tuple(sorted(tokens.items())), tuple(sorted(named.items()))
    other = None if tool_use is None else ChatTemplate(tool_use, compile_template(tool_use), *given)
    return ChatTemplate(source, compile_template(source), *given, other)


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
    guarded, context, hidden = control_hider(())(messages, context)
    template = select_template(template, context)
    return restore_controls(
        strip_marks(render_marked(template, guarded, prompt=add_generation_prompt, context=context)), hidden
    )


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

    The ids are those of transformers' `apply_chat_template`, except that the text of a control token inside a
    message stays text (nobody ends a turn by writing "<|im_end|>"), that no token lies on both sides of a
    place where generation begins, so that training sees the prompt's tokens, then the answer's, and that an
    answer which only closes its thoughts ("</think>") begins with what the prompt opens ("<think>"). Special
    tokens are those that the template writes; the tokenizer adds none.

    Args:
        template: see `chat_template`.
        tokenizer: whose control tokens the template uses.
        chats: messages of each; the more at once, the faster.
        add_generation_prompt: end with the beginning of an assistant's turn, as a prompt to be answered does.
            Nothing is marked then, so any template will do.
        contexts: tools and template variables of each conversation; None: they have none.
        on_error: gets the number of each conversation that the template refuses, and the error; it is then
            left out of what is returned. None raises the first.

    Returns:
        Encoded(tokens [n], trained [n]) for each. The tokens of messages[:i] with a generation prompt are
        those with
        which messages[: i + 1] begins, i being a turn of the assistant.

    Steps:
        1. Hide the text of control tokens in the messages, and render.
        2. Find the assistant's spans: what {% generation %} blocks hold; else what each of its turns adds to
           the text before it, up to and with the control token that ends the turn (white space after that is
           nobody's). Where only the next turn's first token ends it, that one is learned, and added after a
           last turn. Turns with trained=False are only read.
        3. Encode the pieces of all conversations in two batches: with control tokens, and as plain text.

    Edge cases: no message gives no token; without control tokens in the template, a whole turn is the
    assistant's.

    Raises:
        ValueError: if the template changes earlier turns once a later one is there, leaves out what a turn
            says, or as in `render` (all of these go to on_error, if it is given); or as in the tokenizer's
            `encode`.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["a b"], 300, special_tokens=["<|im_start|>", "<|im_end|>"])
        >>> found = encode_chats(chat_template(), tokenizer, [[Message("user", "a"), Message("assistant", "b")]])[0]
        >>> tokenizer.decode(found.tokens[found.trained])
        'b<|im_end|>'
    """
    pairs = zip(chats, repeat(PLAIN)) if contexts is None else zip(chats, contexts, strict=True)
    jobs = (PromptCompletion((), messages, context) for messages, context in pairs)
    # 1., 2. and 3. One function for all.
    return _encode(
        template,
        tokenizer,
        jobs,
        cut_with_generation_prompt if add_generation_prompt else cut_completion,
        on_error,
    )


def encode_prompt_chats(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    chats: Iterable[Sequence[Message]],
    *,
    contexts: Iterable[Context] | None = None,
    on_error: OnError | None = None,
) -> list[Encoded]:
    """Encodes what a model is to answer: as `encode_chats` with a generation prompt.

    A chat that ends with a turn of the assistant is continued: its end is what that turn says, not the token
    that would close it.

    Args:
        template: as there.
        tokenizer: as there.
        chats: as there.
        contexts: as there.
        on_error: as there.

    Returns:
        Encoded(tokens [n], trained [n]) for each; nothing is trained.

    Raises:
        ValueError: as there, or if a chat ends with a turn of the assistant that says nothing.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["a b"], 300, special_tokens=["<|im_start|>", "<|im_end|>"])
        >>> begun = [Message("user", "a"), Message("assistant", "b")]
        >>> tokenizer.decode(encode_prompt_chats(chat_template(), tokenizer, [begun])[0].tokens)[-11:]
        'assistant\\nb'
    """
    pairs = zip(chats, repeat(PLAIN)) if contexts is None else zip(chats, contexts, strict=True)
    jobs = (PromptCompletion(messages, (), context) for messages, context in pairs)
    return _encode(template, tokenizer, jobs, cut_prompt, on_error)


def encode_completions(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    pairs: Iterable[tuple[Sequence[Message], Sequence[Message]]],
    *,
    contexts: Iterable[Context] | None = None,
    on_error: OnError | None = None,
) -> list[Encoded]:
    """Encodes prompts with their completions: as `encode_chats`, and only the completion's turns are trained.

    A completion that begins with a turn of the assistant continues a prompt that ends with one: the two are
    one turn, of which what the completion says is trained.

    Args:
        template: as there.
        tokenizer: as there.
        pairs: (messages of the prompt, messages of the completion) of each.
        contexts: as there.
        on_error: as there.

    Returns:
        Encoded(tokens [n], trained [n]) for each. The tokens begin with those of the prompt
        (`encode_prompt_chats`).

    Raises:
        ValueError: as there.
    """
    rows = zip(pairs, repeat(PLAIN)) if contexts is None else zip(pairs, contexts, strict=True)
    jobs = (PromptCompletion(prompt, said, context) for (prompt, said), context in rows)
    return _encode(template, tokenizer, jobs, cut_completion, on_error)


def _encode(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    jobs: Iterable[PromptCompletion],
    cut: Cut,
    on_error: OnError | None,
) -> list[Encoded]:
    """Encodes jobs."""
    return [Encoded(*row) for row in encode_conversations(template, tokenizer, jobs, cut, on_error)]
