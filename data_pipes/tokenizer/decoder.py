"""Tokens to text, a token at a time: each step of a decoder is a small machine that is fed strings.

A step gets the tokens of the step before it and hands on strings. It holds back only what a later token may
change: the first bytes of a character, a run of byte tokens (one wrong byte makes all of the run U+FFFD), the
last token where the last is treated differently. So one description serves `decode`, which feeds everything,
and `stream`.

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
"""What tokenizer.json writes as null: tokens with a space between them."""

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


class Decoder(NamedTuple):
    """A decoder, or one step of it.

    Fields:
        init: the first state.
        feed: (state, token) -> (state, strings to hand on).
        finish: state -> the strings that were held back.
    """

    init: State
    feed: Callable[[State, str], tuple[State, Pieces]]
    finish: Callable[[State], Pieces]


def make_decoder(steps: Sequence[Step], errors: str = "replace") -> Decoder:
    """Joins the steps of a decoder into one machine.

    After "Fuse" or "ByteLevel" all text is one token that arrives in pieces; a step that must see a token
    whole then holds everything until the end.

    Args:
        steps: of the decoder.
        errors: what becomes of bytes that are not UTF-8: "replace" (U+FFFD), "strict" or "ignore".

    Example:
        >>> steps = (step("Replace", pattern=("String", "▁"), content=" "), step("Fuse"))
        >>> run_decoder(make_decoder(steps), ["▁a", "b"])
        ' ab'
    """
    parts, fused = [], False
    for each in steps:
        parts.append(_step_decoder(each, fused, errors))
        fused = fused or each.type in ("Fuse", "ByteLevel")
    return Decoder(
        tuple(part.init for part in parts),
        partial(_feed_steps, tuple(parts)),
        partial(_finish_steps, tuple(parts)),
    )


def run_decoder(decoder: Decoder, tokens: Iterable[str]) -> str:
    """Decodes all tokens at once."""
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
    """Feeds a token to the first step, what it hands on to the next, and so on."""
    pieces: Pieces = (token,)
    after = []
    for part, state in zip(parts, states, strict=True):
        found: list[str] = []
        for piece in pieces:
            state, more = part.feed(state, piece)
            found += more
        after.append(state)
        pieces = tuple(found)
    return tuple(after), pieces


def _finish_steps(parts: tuple[Decoder, ...], states: tuple[State, ...]) -> Pieces:
    """Ends every step, the first one first."""
    pieces: Pieces = ()
    for part, state in zip(parts, states, strict=True):
        found: list[str] = []
        for piece in pieces:
            state, more = part.feed(state, piece)
            found += more
        pieces = (*found, *part.finish(state))
    return pieces


def _step_decoder(given: Step, fused: bool, errors: str) -> Decoder:
    """The machine of one step."""
    options = step_options(given)
    if fused and not _accepts_pieces(given):
        return Decoder((), _hold_piece, partial(_decode_held, _step_decoder(given, False, errors)))
    if given.type == "Strip" and fused:
        return _strip_fused(options["content"], options["start"], options["stop"])
    return STEPS[given.type](options, errors)


def _accepts_pieces(given: Step) -> bool:
    """Whether a step gives the same text for a token that arrives in pieces."""
    options = step_options(given)
    one = given.type == "Replace" and options["pattern"][0] == "String" and len(options["pattern"][1]) == 1
    return one or given.type in ("Fuse", "Strip")


def _per_token(change: Callable[[str], str]) -> Decoder:
    """A step that changes each token by itself."""
    return Decoder((), lambda state, token: (state, (change(token),)), lambda state: ())


def _first_differs(change: Callable[[bool, str], str]) -> Decoder:
    """A step that treats the first token differently."""
    return Decoder(True, lambda first, token: (False, (change(first, token),)), lambda first: ())


def _fuse(options: Mapping[str, Any], errors: str) -> Decoder:
    return _per_token(str)


def _replace(options: Mapping[str, Any], errors: str) -> Decoder:
    """Every match becomes `content`, as it is written."""
    kind, pattern = options["pattern"]
    if kind == "String":
        return _per_token(lambda token: token.replace(pattern, options["content"]))
    find = compile_pattern(options["pattern"])
    return _per_token(lambda token: find.sub(lambda match: options["content"], token))


def _strip(options: Mapping[str, Any], errors: str) -> Decoder:
    """At most `start` and `stop` times the character `content` is cut from the ends of each token."""

    def change(token: str) -> str:
        content = options["content"]
        start = min(options["start"], len(token) - len(token.lstrip(content)))
        token = token[start:]
        stop = min(options["stop"], len(token) - len(token.rstrip(content)))
        return token[: len(token) - stop]

    return _per_token(change)


def _strip_fused(content: str, start: int, stop: int) -> Decoder:
    """The same where the token arrives in pieces; the state is (left to cut in front, characters held at the
    end)."""

    def feed(state: tuple[int, str], piece: str) -> tuple[tuple[int, str], Pieces]:
        left, held = state
        while left and piece.startswith(content):
            left, piece = left - 1, piece[1:]
        left = 0 if piece else left
        text = held + piece
        tail = len(text) - min(stop, len(text) - len(text.rstrip(content)))
        return (left, text[tail:]), (text[:tail],)

    return Decoder((start, ""), feed, lambda state: ())


def _metaspace(options: Mapping[str, Any], errors: str) -> Decoder:
    """The mark is a space; in the first token it is nothing, if text was given one in front."""
    mark, prepends = options["replacement"], options["prepend_scheme"] != "never"
    return _first_differs(lambda first, token: token.replace(mark, "" if first and prepends else " "))


def _spaces(options: Mapping[str, Any], errors: str) -> Decoder:
    return _first_differs(lambda first, token: token if first else " " + token)


def _word_piece(options: Mapping[str, Any], errors: str) -> Decoder:
    """A token without the prefix begins a word."""

    def change(first: bool, token: str) -> str:
        if not first:
            prefix = options["prefix"]
            token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
        for old, new in CLEANUPS if options["cleanup"] else ():
            token = token.replace(old, new)
        return token

    return _first_differs(change)


def _bpe(options: Mapping[str, Any], errors: str) -> Decoder:
    """The suffix is a space, in the last token nothing; the state is the last token, or None."""
    suffix = options["suffix"]

    def feed(last: str | None, token: str) -> tuple[str, Pieces]:
        return token, () if last is None else (last.replace(suffix, " "),)

    return Decoder(None, feed, lambda last: () if last is None else (last.replace(suffix, ""),))


def _byte_level(options: Mapping[str, Any], errors: str) -> Decoder:
    """The state is the first bytes of a character."""

    def feed(held: bytes, token: str) -> tuple[bytes, Pieces]:
        data = held + to_bytes(token)
        text, used = codecs.utf_8_decode(data, errors, False)
        return data[used:], (text,)

    return Decoder(b"", feed, lambda held: (held.decode(errors=errors),))


def _byte_fallback(options: Mapping[str, Any], errors: str) -> Decoder:
    """The state is a run of byte tokens; it is text as a whole, or each byte is U+FFFD."""

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
    """All pieces as the one token that they are."""
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
"""Type of a step -> (options, errors) -> its machine."""
