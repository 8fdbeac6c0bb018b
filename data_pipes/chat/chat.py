"""Render conversations by a chat template, and encode them with a mask of the assistant's tokens.

A model sees one row of tokens; control tokens separate its turns. A chat template is the Jinja program that
writes them (`data_pipes.chat.rendering`). The ids are those of transformers' `apply_chat_template`.

Shape letters: n tokens of one conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from data_pipes.chat.batch_encoding import (
    OnError,
    PromptCompletion,
    Render,
    encode_conversations,
    render_completion,
    render_continued_prompt,
    render_with_generation_prompt,
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
        trained: [n] bool, True on the assistant's tokens: its text, and the token that ends its turn.
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
        source: Jinja; one of `data_pipes.chat.presets`, or a model's own.
        bos_token: text of the token that begins a conversation, such as "<|begin_of_text|>"; "" for none.
        eos_token: text of the token that ends a conversation; "" for none.
        special_tokens: text of each special token that the template may use: {"bos_token": ..., "eos_token":
            ..., "unk_token": ..., "pad_token": ...}. As in transformers, a token that is left out or "" is
            undefined in the template.
        variables: (name, value) pairs that the template may use; those of a row (`Context.variables`) take
            precedence.
        tool_use: Jinja for conversations that have tools; None uses `source` for these too.

    Returns:
        ChatTemplate.

    Raises:
        ValueError: if the template does not compile, with the line; if a special token has two different
            texts; if a name is not an identifier.

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
            raise ValueError(f"chat_template: {name!r} is not a variable name; use letters, digits and _")
    names = tuple(sorted(tokens.items())), tuple(sorted(named.items()))
    with_tools = None if tool_use is None else ChatTemplate(tool_use, compile_template(tool_use), *names)
    return ChatTemplate(source, compile_template(source), *names, with_tools)


def render(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    context: Context = PLAIN,
) -> str:
    """Renders messages as one text.

    Args:
        template: see `chat_template`.
        messages: turns of the conversation, any number.
        add_generation_prompt: end with the header of a turn of the assistant.
        context: tools and template variables of the conversation.

    Returns:
        The text, with control tokens.

    Raises:
        ValueError: if the template refuses the messages, fails, or exceeds its bound on time and memory.

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
        template: as in `encode_chats`.
        tokenizer: as in `encode_chats`.
        messages: turns of the conversation.
        add_generation_prompt: as in `encode_chats`.
        context: tools and template variables of the conversation.

    Returns:
        Encoded(tokens [n], trained [n]).

    Raises:
        ValueError: as in `encode_chats`.
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
    """Encodes conversations, and marks the tokens of the assistant.

    The ids are those of transformers' `apply_chat_template`, with three differences. The text of a control
    token inside a message stays text, so that nobody ends a turn by writing "<|im_end|>". No token crosses
    the position at which generation begins, so training sees the prompt's tokens, then the completion's. A
    turn that closes its reasoning without opening it ("</think>" only) begins with the tag that the prompt
    opens ("<think>"). The template writes all special tokens; the tokenizer adds none.

    Args:
        template: see `chat_template`.
        tokenizer: a tokenizer that has the template's control tokens.
        chats: messages of each conversation; many in one call are faster than one at a time.
        add_generation_prompt: end with the header of a turn of the assistant, as a prompt does. No token is
            marked as trained then, so every template works.
        contexts: tools and template variables of each conversation; None for none.
        on_error: gets the index of each conversation that the template refuses, and the error; the
            conversation is then skipped. None raises the first error.

    Returns:
        Encoded(tokens [n], trained [n]) for each. For a turn i of the assistant, the tokens of messages[:i]
        with a generation prompt are a prefix of those of messages[: i + 1].

    Steps:
        1. Hide the text of control tokens in the messages, and render.
        2. Find the assistant's spans: the {% generation %} blocks; without them, the text that each of its
           turns adds, up to and including the control token that ends the turn, without the white space after
           that token. Where only the first token of the next turn ends it, that token is trained, and
           appended after the last turn. Turns with trained=False are not trained.
        3. Encode the pieces of all conversations in two batches: with control tokens, and as plain text.

    Edge cases: no messages give no tokens; without control tokens in the template, the whole turn is trained.

    Raises:
        ValueError: if the template changes earlier turns when a later one is added, drops text of a turn, or
            as in `render` (all of these go to on_error, if given); as in the tokenizer's `encode`.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["a b"], 300, special_tokens=["<|im_start|>", "<|im_end|>"])
        >>> chats = [[Message("user", "a"), Message("assistant", "b")]]
        >>> encoded = encode_chats(chat_template(), tokenizer, chats)[0]
        >>> tokenizer.decode(encoded.tokens[encoded.trained])
        'b<|im_end|>'
    """
    # 1., 2. and 3. are in `encode_conversations`.
    if add_generation_prompt:
        prompts = ((messages, ()) for messages in chats)
        return _encode(template, tokenizer, prompts, contexts, render_with_generation_prompt, on_error)
    completions = (((), messages) for messages in chats)
    return _encode(template, tokenizer, completions, contexts, render_completion, on_error)


def encode_prompt_chats(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    chats: Iterable[Sequence[Message]],
    *,
    contexts: Iterable[Context] | None = None,
    on_error: OnError | None = None,
) -> list[Encoded]:
    """Encodes prompts: as `encode_chats` with a generation prompt.

    A chat that ends with a turn of the assistant is continued: its tokens end with the text of that turn, not
    with the token that would close it.

    Args:
        template: as in `encode_chats`.
        tokenizer: as in `encode_chats`.
        chats: messages of each prompt.
        contexts: as in `encode_chats`.
        on_error: as in `encode_chats`.

    Returns:
        Encoded(tokens [n], trained [n]) for each; nothing is trained.

    Raises:
        ValueError: as in `encode_chats`, or if a chat ends with a turn of the assistant that has no content.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["a b"], 300, special_tokens=["<|im_start|>", "<|im_end|>"])
        >>> begun = [Message("user", "a"), Message("assistant", "b")]
        >>> tokenizer.decode(encode_prompt_chats(chat_template(), tokenizer, [begun])[0].tokens)[-11:]
        'assistant\\nb'
    """
    pairs = ((messages, ()) for messages in chats)
    return _encode(template, tokenizer, pairs, contexts, render_continued_prompt, on_error)


def encode_completions(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    pairs: Iterable[tuple[Sequence[Message], Sequence[Message]]],
    *,
    contexts: Iterable[Context] | None = None,
    on_error: OnError | None = None,
) -> list[Encoded]:
    """Encodes prompts with their completions: as `encode_chats`, but only the completion is trained.

    If the prompt ends and the completion begins with a turn of the assistant, the two are one turn, of which
    the completion's part is trained.

    Args:
        template: as in `encode_chats`.
        tokenizer: as in `encode_chats`.
        pairs: (messages of the prompt, messages of the completion) of each conversation.
        contexts: as in `encode_chats`.
        on_error: as in `encode_chats`.

    Returns:
        Encoded(tokens [n], trained [n]) for each. The tokens begin with those of the prompt
        (`encode_prompt_chats`).

    Raises:
        ValueError: as in `encode_chats`.
    """
    return _encode(template, tokenizer, pairs, contexts, render_completion, on_error)


def _encode(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    pairs: Iterable[tuple[Sequence[Message], Sequence[Message]]],
    contexts: Iterable[Context] | None,
    render: Render,
    on_error: OnError | None,
) -> list[Encoded]:
    """Encodes (prompt, completion) pairs with their contexts."""
    rows = zip(pairs, repeat(PLAIN)) if contexts is None else zip(pairs, contexts, strict=True)
    conversations = (PromptCompletion(prompt, completion, context) for (prompt, completion), context in rows)
    return [
        Encoded(*row) for row in encode_conversations(template, tokenizer, conversations, render, on_error)
    ]
