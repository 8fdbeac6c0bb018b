"""Decode tokens to text incrementally, by a chain of steps that each take and return strings.

A step takes the strings of the step before it. It buffers only text that a later token may change: the first
bytes of a character, consecutive byte tokens (one invalid byte turns all of them into U+FFFD), the last token
if it is treated differently. So `decode`, which feeds all tokens, and `stream` share the same steps.

Source: the decoders of Hugging Face tokenizers 0.23.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from data_pipes.tokenizer.byte_level import to_bytes
from data_pipes.tokenizer.pieces import compile_pattern
from data_pipes.tokenizer.step import Step, step, step_options

State = Any
Pieces = tuple[str, ...]

BYTE_LEVEL = (step("ByteLevel"),)
JOINED = (step("Fuse"),)
SPACED = (step("Spaces"),)
"""The decoder that tokenizer.json writes as null: tokens with a space between them."""

REPLACEMENT = "\ufffd"
CLEANUPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""(text, its replacement) of WordPiece's option `cleanup`, which removes spaces before punctuation."""


class Decoder(NamedTuple):
    """An incremental decoder, or one step of it.

    Fields:
        init: initial state.
        feed: (state, token) -> (next state, strings that are final).
        finish: state -> the buffered strings, at the end of the tokens.
    """

    init: State
    feed: Callable[[State, str], tuple[State, Pieces]]
    finish: Callable[[State], Pieces]


def make_decoder(steps: Sequence[Step], errors: str = "replace") -> Decoder:
    """Builds an incremental decoder from its steps.

    After "Fuse" or "ByteLevel" all text is one token that arrives in pieces; a step that needs a complete
    token then buffers all pieces until the end.

    Args:
        steps: steps of the decoder, in order.
        errors: treatment of invalid UTF-8: "replace" (by U+FFFD), "strict" or "ignore".

    Returns:
        The Decoder; its state is the tuple of the steps' states.

    Example:
        >>> steps = (step("Replace", pattern=("String", "▁"), content=" "), step("Fuse"))
        >>> run_decoder(make_decoder(steps), ["▁a", "b"])
        ' ab'
    """
    chain: tuple[Decoder, ...] = ()
    fused = False
    for item in steps:
        chain = (*chain, _step_decoder(item, fused, errors))
        fused = fused or item.type in ("Fuse", "ByteLevel")
    init = tuple(part.init for part in chain)
    return Decoder(init, partial(_feed_steps, chain), partial(_finish_steps, chain))


def run_decoder(decoder: Decoder, tokens: Iterable[str]) -> str:
    """Decodes all tokens to one string."""
    state, text = decoder.init, list[str]()
    for token in tokens:
        state, pieces = decoder.feed(state, token)
        text += pieces
    return "".join([*text, *decoder.finish(state)])


def byte_of(token: str) -> int | None:
    """Returns the byte of a token such as "<0x0A>", or None.

    Example:
        >>> byte_of("<0x0A>"), byte_of("<0xZZ>")
        (10, None)
    """
    if len(token.encode()) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    digits = token[3:5].removeprefix("+")
    return int(digits, 16) if digits and all(c in "0123456789abcdefABCDEF" for c in digits) else None


def _feed_steps(
    parts: tuple[Decoder, ...], states: tuple[State, ...], token: str
) -> tuple[tuple[State, ...], Pieces]:
    """Feeds a token to the first step, its strings to the next, and so on."""
    pieces: Pieces = (token,)
    next_states = []
    for part, state in zip(parts, states, strict=True):
        outputs: list[str] = []
        for piece in pieces:
            state, final = part.feed(state, piece)
            outputs += final
        next_states.append(state)
        pieces = tuple(outputs)
    return tuple(next_states), pieces


def _finish_steps(parts: tuple[Decoder, ...], states: tuple[State, ...]) -> Pieces:
    """Finishes every step in order, and feeds its buffered strings to the next."""
    pieces: Pieces = ()
    for part, state in zip(parts, states, strict=True):
        outputs: list[str] = []
        for piece in pieces:
            state, final = part.feed(state, piece)
            outputs += final
        pieces = (*outputs, *part.finish(state))
    return pieces


def _step_decoder(given: Step, fused: bool, errors: str) -> Decoder:
    """Builds the decoder of one step; `fused` if its input is one token in pieces."""
    options = step_options(given)
    if fused and not _accepts_pieces(given):
        return Decoder((), _hold_piece, partial(_decode_held, _step_decoder(given, False, errors)))
    if given.type == "Strip" and fused:
        return _strip_fused(options["content"], options["start"], options["stop"])
    return STEPS[given.type](options, errors)


def _accepts_pieces(given: Step) -> bool:
    """True if a step gives the same text for a complete token and for the token in pieces."""
    if given.type == "Replace":
        kind, pattern = step_options(given)["pattern"]
        return kind == "String" and len(pattern) == 1
    return given.type in ("Fuse", "Strip")


def _per_token(change: Callable[[str], str]) -> Decoder:
    """A step that changes each token independently."""
    return Decoder((), lambda state, token: (state, (change(token),)), lambda state: ())


def _first_differs(change: Callable[[bool, str], str]) -> Decoder:
    """A step that treats the first token differently; the state is True before it."""
    return Decoder(True, lambda first, token: (False, (change(first, token),)), lambda first: ())


def _fuse(options: Mapping[str, Any], errors: str) -> Decoder:
    return _per_token(str)


def _replace(options: Mapping[str, Any], errors: str) -> Decoder:
    """Replaces every match by the literal `content`."""
    kind, pattern = options["pattern"]
    if kind == "String":
        return _per_token(lambda token: token.replace(pattern, options["content"]))
    find = compile_pattern(options["pattern"])
    return _per_token(lambda token: find.sub(lambda match: options["content"], token))


def _strip(options: Mapping[str, Any], errors: str) -> Decoder:
    """Strips the character `content` from the ends of each token, at most `start` and `stop` times."""

    def change(token: str) -> str:
        content = options["content"]
        start = min(options["start"], len(token) - len(token.lstrip(content)))
        token = token[start:]
        stop = min(options["stop"], len(token) - len(token.rstrip(content)))
        return token[: len(token) - stop]

    return _per_token(change)


def _strip_fused(content: str, start: int, stop: int) -> Decoder:
    """`_strip` for a token in pieces; the state is (number left to strip at the start, buffered end)."""

    def feed(state: tuple[int, str], piece: str) -> tuple[tuple[int, str], Pieces]:
        to_strip, held = state
        while to_strip and piece.startswith(content):
            to_strip, piece = to_strip - 1, piece[1:]
        to_strip = 0 if piece else to_strip
        text = held + piece
        tail = len(text) - min(stop, len(text) - len(text.rstrip(content)))
        return (to_strip, text[tail:]), (text[:tail],)

    return Decoder((start, ""), feed, lambda state: ())


def _metaspace(options: Mapping[str, Any], errors: str) -> Decoder:
    """Replaces the mark "▁" by a space; removes it in the first token, if encoding prepends one to texts."""
    mark, prepends = options["replacement"], options["prepend_scheme"] != "never"
    return _first_differs(lambda first, token: token.replace(mark, "" if first and prepends else " "))


def _spaces(options: Mapping[str, Any], errors: str) -> Decoder:
    return _first_differs(lambda first, token: token if first else " " + token)


def _word_piece(options: Mapping[str, Any], errors: str) -> Decoder:
    """Puts a space before each token that begins a word: one without the prefix."""

    def change(first: bool, token: str) -> str:
        if not first:
            prefix = options["prefix"]
            token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
        for old, new in CLEANUPS if options["cleanup"] else ():
            token = token.replace(old, new)
        return token

    return _first_differs(change)


def _bpe(options: Mapping[str, Any], errors: str) -> Decoder:
    """Replaces the suffix by a space, removes it in the last token; the state is the last token, or None."""
    suffix = options["suffix"]

    def feed(last: str | None, token: str) -> tuple[str, Pieces]:
        return token, () if last is None else (last.replace(suffix, " "),)

    return Decoder(None, feed, lambda last: () if last is None else (last.replace(suffix, ""),))


def _byte_level(options: Mapping[str, Any], errors: str) -> Decoder:
    """Decodes UTF-8; the state is the bytes of an incomplete character."""

    def feed(held: bytes, token: str) -> tuple[bytes, Pieces]:
        data = held + to_bytes(token)
        text, used = codecs.utf_8_decode(data, errors, False)
        return data[used:], (text,)

    return Decoder(b"", feed, lambda held: (held.decode(errors=errors),))


def _byte_fallback(options: Mapping[str, Any], errors: str) -> Decoder:
    """Decodes consecutive byte tokens: their UTF-8 text, or U+FFFD for each byte; the state is the bytes."""

    def text(held: bytes) -> Pieces:
        try:
            return (held.decode(),) if held else ()
        except UnicodeDecodeError:
            if errors == "strict":
                raise
            return (REPLACEMENT,) * len(held) if errors == "replace" else ()

    def feed(held: bytes, token: str) -> tuple[bytes, Pieces]:
        byte = byte_of(token)
        return (b"", (*text(held), token)) if byte is None else (held + bytes([byte]), ())

    return Decoder(b"", feed, text)


def _hold_piece(held: Pieces, piece: str) -> tuple[Pieces, Pieces]:
    return (*held, piece), ()


def _decode_held(inner: Decoder, held: Pieces) -> Pieces:
    """Decodes all buffered pieces as one token."""
    return (run_decoder(inner, ["".join(held)]),) if held else ()


STEPS: Mapping[str, Callable[[Mapping[str, Any], str], Decoder]] = {
    "ByteLevel": _byte_level,
    "ByteFallback": _byte_fallback,
    "Fuse": _fuse,
    "Replace": _replace,
    "Strip": _strip,
    "Metaspace": _metaspace,
    "BPEDecoder": _bpe,
    "WordPiece": _word_piece,
    "Spaces": _spaces,
}
"""Type of a step -> function from (options, errors) to its decoder."""
