"""Chat prompts of evaluations: each question is the user's turn of a chat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from data_pipes.chat.chat import ChatTemplate, encode_chat
from data_pipes.chat.messages import Message
from data_pipes.tokenizer.spec import Tokenizer
from stages.models.chat_template import stop_ids, template_of
from stages.models.language_model import Pretrained


class ChatPrompt(NamedTuple):
    """Chat prompt encoder and its end-of-turn tokens.

    Fields:
        encode: question -> ids of the prompt.
        form: text of the template with its variables, which is written into the record.
        stop_tokens: ids that end an answer.
    """

    encode: Callable[[str], list[int]]
    form: str
    stop_tokens: tuple[int, ...]


def chat_prompt(loaded: Pretrained, *, template: ChatTemplate | None = None) -> ChatPrompt:
    """Return the chat prompt encoder of a model.

    Args:
        loaded: the model, with its tokenizer and template.
        template: template to use instead of the model's own; None takes that, or ChatML if it has none.
    """
    chosen = template or template_of(None, loaded)
    form = f"{chosen.source}\n{chosen.variables!r}" if chosen.variables else chosen.source
    encode = partial(_encode_question, template=chosen, tokenizer=loaded.tokenizer)
    return ChatPrompt(encode, form, stop_ids(loaded, chosen))


def _encode_question(question: str, *, template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """Encode a question as the user's turn, up to the beginning of the answer."""
    messages = [Message("user", question)]
    return encode_chat(template, tokenizer, messages, add_generation_prompt=True).tokens.tolist()
