"""Split normalised text into pieces that merges never cross: the steps before the split pattern.

Source: the pre-tokenizers of Hugging Face tokenizers 0.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import regex

from data_pipes.tokenizer.byte_level import to_characters
from data_pipes.tokenizer.pieces import WORD, compile_pattern, split_at_matches
from data_pipes.tokenizer.split import PATTERNS
from data_pipes.tokenizer.step import Step, step_options

Piece = tuple[str, bool]
"""(text of the piece, True if it begins the whole text)."""

NEWER = (
    r"\u061d\u09fd\u0a76\u0c77\u0c84\u1b4e-\u1b4f\u1b7d-\u1b7f\u2e43-\u2e4f\u2e52-\u2e5d\u2e60-\u2e63"
    r"\U00010d6e\U00010ead\U00010ed0\U00010f55-\U00010f59\U00010f86-\U00010f89\U000113d4-\U000113d5"
    r"\U000113d7-\U000113d8\U0001144b-\U0001144f\U0001145a-\U0001145b\U0001145d\U00011660-\U0001166c"
    r"\U000116b9\U0001183b\U00011944-\U00011946\U000119e2\U00011a3f-\U00011a46\U00011a9a-\U00011a9c"
    r"\U00011a9e-\U00011aa2\U00011b00-\U00011b09\U00011be1\U00011c41-\U00011c45\U00011c70-\U00011c71"
    r"\U00011ef7-\U00011ef8\U00011f43-\U00011f4f\U00011fff\U00012ff1-\U00012ff2\U00016d6d-\U00016d6f"
    r"\U00016e97-\U00016e9a\U00016fe2\U0001e5ff\U0001e95e-\U0001e95f"
)
"""Punctuation of Unicode versions newer than the tables of Hugging Face tokenizers."""

PUNCTUATION = rf"(?![{NEWER}])[\p{{P}}$+<=>^`|~\u166d\U000111c9]"
"""Punctuation in the Unicode tables of Hugging Face tokenizers, which are older than those of `regex`."""


def pre_tokenizer(steps: Sequence[Step]) -> Callable[[str, bool], list[str]]:
    """Compiles steps into a function (text, True if it begins the whole text) -> non-empty pieces; picklable.

    Example:
        >>> from data_pipes.tokenizer.step import step
        >>> cut = pre_tokenizer((step("Metaspace", replacement="▁", prepend_scheme="always", split=True),))
        >>> cut("Hey you", True)
        ['▁Hey', '▁you']
    """
    return partial(_run_steps, tuple(STEPS[each.type](**step_options(each)) for each in steps))


def _run_steps(steps: tuple[Callable[[str, bool], list[Piece]], ...], text: str, first: bool) -> list[str]:
    """Applies the steps in order, each to the pieces of the step before it."""
    pieces = [(text, first)]
    for cut in steps:
        pieces = [piece for each in pieces for piece in cut(*each) if piece[0]]
    return [piece for piece, _ in pieces]


def _cut_pieces(pattern: regex.Pattern, behavior: str, invert: bool, text: str, first: bool) -> list[Piece]:
    """Cuts one text; only its first piece can begin the whole text."""
    return [
        (text[start:end], first and not start)
        for start, end in split_at_matches(pattern, behavior, invert, text)
    ]


def _split(pattern: tuple[str, str], behavior: str, invert: bool) -> Callable[[str, bool], list[Piece]]:
    return partial(_cut_pieces, compile_pattern(pattern), behavior, invert)


def _digits(individual_digits: bool) -> Callable[[str, bool], list[Piece]]:
    return partial(
        _cut_pieces, regex.compile(r"\p{N}"), "Isolated" if individual_digits else "Contiguous", False
    )


def _punctuation(behavior: str) -> Callable[[str, bool], list[Piece]]:
    return partial(_cut_pieces, regex.compile(PUNCTUATION), behavior, False)


def _whitespace() -> Callable[[str, bool], list[Piece]]:
    """Splits into words and runs of other characters that are no white space."""
    return partial(_cut_pieces, regex.compile(rf"{WORD}+|[^\p{{White_Space}}{WORD[1:-1]}]+"), "Removed", True)


def _whitespace_split() -> Callable[[str, bool], list[Piece]]:
    return partial(_cut_pieces, regex.compile(r"\p{White_Space}"), "Removed", False)


def _delimiter(delimiter: str) -> Callable[[str, bool], list[Piece]]:
    return partial(_cut_pieces, compile_pattern(("String", delimiter)), "Removed", False)


def _metaspace(replacement: str, prepend_scheme: str, split: bool) -> Callable[[str, bool], list[Piece]]:
    pattern = compile_pattern(("String", replacement)) if split else None
    return partial(_mark_spaces, replacement, prepend_scheme, pattern)


def _mark_spaces(
    mark: str, scheme: str, pattern: regex.Pattern | None, text: str, first: bool
) -> list[Piece]:
    """Replaces spaces by the mark, and prepends one; with `pattern`, a piece begins at each mark."""
    text = text.replace(" ", mark)
    if (scheme == "always" or (scheme == "first" and first)) and not text.startswith(mark):
        text = mark + text
    return _cut_pieces(pattern, "MergedWithNext", False, text, first) if pattern else [(text, first)]


def _bytes(add_prefix_space: bool, use_regex: bool) -> Callable[[str, bool], list[Piece]]:
    pattern = regex.compile(PATTERNS["gpt2"].unicode) if use_regex else None
    return partial(_to_byte_pieces, add_prefix_space, pattern)


def _to_byte_pieces(prefix_space: bool, pattern: regex.Pattern | None, text: str, first: bool) -> list[Piece]:
    """Cuts a text, and writes the pieces in the byte alphabet."""
    text = prepend_space(text) if prefix_space else text
    pieces = _cut_pieces(pattern, "Isolated", False, text, first) if pattern else [(text, first)]
    return [(to_characters(piece), begins) for piece, begins in pieces]


def prepend_space(text: str) -> str:
    """Prepends a space to a text that does not begin with one."""
    return text if text.startswith(" ") else " " + text


STEPS: Mapping[str, Callable[..., Callable[[str, bool], list[Piece]]]] = {
    "Split": _split,
    "Digits": _digits,
    "Punctuation": _punctuation,
    "Whitespace": _whitespace,
    "WhitespaceSplit": _whitespace_split,
    "CharDelimiterSplit": _delimiter,
    "Metaspace": _metaspace,
    "ByteLevel": _bytes,
}
"""Type of a step -> function of its options, which returns (text, begins the whole text) -> pieces."""
