"""Text of a completion as its tokens come: characters and stop texts may cross the borders of tokens.

A character is sent when all its bytes are there, and text that may begin a stop text is held back until the
next tokens decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from data_pipes.tokenizer.stream import Stream
from stages.serve.row import Piece, Token


class TextState(NamedTuple):
    """Text of a row between two tokens.

    Fields:
        decoder: state of the streaming decoder.
        held: decoded text that was not sent, as it may begin a stop text.
        decoded: number of characters decoded so far.
        sent: number of characters sent so far.
        waiting: tokens that were not sent, in order.
    """

    decoder: Any
    held: str = ""
    decoded: int = 0
    sent: int = 0
    waiting: tuple[Token, ...] = ()


def add_token(
    state: TextState, token: Token, *, stream: Stream, stop: Sequence[str] = (), keep: bool = True
) -> tuple[TextState, Piece]:
    """Decode one token, and send the text that no later token can change.

    Args:
        state: `TextState(stream.init)` at first.
        token: the sampled token; its `start` is set here.
        stream: the tokenizer's streaming decoder (`data_pipes.tokenizer.stream`).
        stop: texts that end the completion; none is empty.
        keep: put the token into a piece.

    Returns:
        (state, Piece); `finish` is "stop" if a stop text is complete, and the text ends before it.

    Example:
        >>> stream = Stream("", lambda state, id: (state, chr(id)), lambda state: "")
        >>> state, first = add_token(TextState(""), Token(ord("a")), stream=stream, stop=["ab"])
        >>> state, second = add_token(state, Token(ord("c")), stream=stream, stop=["ab"])
        >>> first.text, second.text, second.finish
        ('', 'ac', None)
    """
    decoder, text = stream.step(state.decoder, token.id)
    decoded = state.decoded + len(text)
    waiting = (*state.waiting, token._replace(start=state.decoded)) if keep else ()
    if not keep and not stop:
        return TextState(decoder, "", decoded, decoded), Piece(text)
    return _send(TextState(decoder, state.held, decoded, state.sent, waiting), text, stop, ending=False)


def end_text(state: TextState, *, stream: Stream, stop: Sequence[str] = ()) -> tuple[TextState, Piece]:
    """Send what was held back, after the last token.

    Args:
        state: as in `add_token`.
        stream: as in `add_token`.
        stop: as in `add_token`.

    Returns:
        (state, Piece); `finish` is "stop" if the text that was held back completes a stop text, else None.
    """
    text = stream.finish(state.decoder)
    return _send(state._replace(decoded=state.decoded + len(text)), text, stop, ending=True)


def _send(state: TextState, text: str, stop: Sequence[str], *, ending: bool) -> tuple[TextState, Piece]:
    """Cut the text at a stop text, or hold back what may begin one; send the rest with its tokens."""
    text = state.held + text
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    stopped = bool(places)
    if stopped:
        size = min(places)
    elif ending:
        size = len(text)
    else:
        size = len(text) - _length_of_beginning(text, stop)
    sent = state.sent + size
    ready = sum(token.start < sent for token in state.waiting)
    if ending and not stopped:
        ready = len(state.waiting)
    piece = Piece(text[:size], state.waiting[:ready], finish="stop" if stopped else None)
    return state._replace(held=text[size:], sent=sent, waiting=state.waiting[ready:]), piece


def _length_of_beginning(text: str, stop: Sequence[str]) -> int:
    """Return the length of the longest end of the text with which a stop text begins."""
    longest = max((len(s) for s in stop), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(s.startswith(text[-size:]) for s in stop):
            return size
    return 0
