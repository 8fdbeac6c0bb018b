"""Decode ids as they arrive: text is returned as soon as no later token can change it.

A token may end in the middle of a character, so decoding tokens one by one would give replacement
characters. Here the returned texts, joined, are `tokenizer.decode` of all ids, for every decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from data_pipes.tokenizer.decoder import Decoder, make_decoder
from data_pipes.tokenizer.spec import Tokenizer, decoder_steps, hidden_ids, token_texts


class Stream(NamedTuple):
    """A decoder for ids that come one at a time, as pure functions.

    Fields:
        init: the first state.
        step: (state, id) -> (state, text that is final; often "").
        finish: state -> the text held back, such as U+FFFD for an incomplete character.
    """

    init: Any
    step: Callable[[Any, int], tuple[Any, str]]
    finish: Callable[[Any], str]


def stream(tokenizer: Tokenizer, *, skip_special: bool = False, errors: str = "replace") -> Stream:
    """Makes a streaming decoder; the texts of all steps and of `finish`, joined, are `tokenizer.decode(ids)`.

    Args:
        tokenizer: of any kind.
        skip_special: leave special tokens out, as in `decode`.
        errors: as in `decode`.

    Returns:
        Stream. An id without a token gives no text.

    Edge cases: a run of byte tokens ("<0xE2>") is decoded as a whole, so its text is returned when it ends.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["é"], 256, special_tokens=[])
        >>> init, step, finish = stream(tokenizer)
        >>> first, second = tokenizer.encode("é")
        >>> state, text = step(init, first)
        >>> text, step(state, second)[1], finish(state)
        ('', 'é', '\ufffd')
    """
    spec = tokenizer.spec
    hidden = hidden_ids(spec) if skip_special else frozenset()
    texts = {i: text for i, text in token_texts(spec).items() if i not in hidden}
    decoder = make_decoder(decoder_steps(spec), errors)
    return Stream(decoder.init, partial(_feed_id, decoder, texts), partial(_finish_text, decoder))


def _feed_id(decoder: Decoder, texts: dict[int, str], state: Any, token: int) -> tuple[Any, str]:
    """Feeds one id; one without a token, or a hidden one, gives no text."""
    if int(token) not in texts:
        return state, ""
    state, pieces = decoder.feed(state, texts[int(token)])
    return state, "".join(pieces)


def _finish_text(decoder: Decoder, state: Any) -> str:
    """Returns the text held back."""
    return "".join(decoder.finish(state))
