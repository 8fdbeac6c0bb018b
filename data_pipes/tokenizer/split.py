"""Split text into words before BPE: the split patterns of GPT-2, Llama 3, Qwen 2 and SmolLM2.

BPE never merges across words, so the pattern limits the tokens: letters keep one space before them, digits
and punctuation are separate from letters, runs of spaces stay together. Every pattern covers the text: the
words, joined, are the text again.

Sources: Radford et al. 2019 (GPT-2, section 2.2, and its code); the tokenizer.json of Llama 3, Qwen 2 and
SmolLM2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import regex

ANY_TEXT = r"[\s\S]+"
"""The pattern that does not split."""

CHUNK = 1 << 16
"""Characters that are split into words at a time, so that the list of words fits the processor's cache."""


class Pattern(NamedTuple):
    """One split pattern, in two forms.

    Fields:
        unicode: for any text; `\\p{L}` are letters, `\\p{N}` digits and other numbers of every script.
        ascii: the same where the text is ASCII, for Python's own `re`, which is twice as fast.
    """

    unicode: str
    ascii: str


PATTERNS: Mapping[str, Pattern] = {
    "gpt2": Pattern(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
    ),
    "llama3": Pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'(?i:s|t|re|ve|m|ll|d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}"
        r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "qwen2": Pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'(?i:s|t|re|ve|m|ll|d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]"
        r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    # Single digits are split off first; then GPT-2's, where white space before a digit is as at the end.
    "smollm2": Pattern(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+(?![^\s0-9])|\s+",
    ),
}
"""Name -> pattern. They differ in the treatment of digits (a run, up to three, one) and of line ends."""


class Splitter(NamedTuple):
    """A compiled pattern; `split_words(splitter, text)` uses it.

    Fields:
        unicode: cuts any text.
        ascii: cuts ASCII text; None for a custom expression, which has one form.
        covers: the matches cover the text: each begins where the one before it ended.
    """

    unicode: regex.Pattern
    ascii: re.Pattern | None
    covers: bool


def splitter(pattern: str) -> Splitter:
    """Compiles a pattern: a name of PATTERNS, or a regular expression in the syntax of the `regex` package.

    Raises:
        ValueError: if it is neither.
    """
    check_pattern(pattern)
    if pattern not in PATTERNS:
        return Splitter(regex.compile(pattern), None, False)
    forms = PATTERNS[pattern]
    return Splitter(regex.compile(forms.unicode), re.compile(forms.ascii, re.ASCII), True)


def split_words(cutter: Splitter, text: str) -> list[str]:
    """Splits text into words; joined, they are the text.

    Args:
        cutter: from `splitter`.
        text: any string.

    Returns:
        Non-empty words, in order. The gaps between matches of a custom expression are words, too.

    Example:
        >>> split_words(splitter("gpt2"), "I've 12  apples")
        ['I', "'ve", ' 12', ' ', ' apples']
        >>> split_words(splitter("qwen2"), "I've 12  apples")
        ['I', "'ve", ' ', '1', '2', ' ', ' apples']
        >>> split_words(splitter("[a-z]+"), "ab1cd")
        ['ab', '1', 'cd']
    """
    if cutter.ascii is not None and text.isascii():
        return cutter.ascii.findall(text)
    if cutter.covers:
        return cutter.unicode.findall(text)
    if cutter.unicode.pattern == ANY_TEXT:
        return [text] if text else []
    return _words_and_gaps(cutter.unicode, text)


def split_chunks(text: str, size: int = CHUNK) -> Iterator[str]:
    """Splits a long text into parts of about `size` characters whose words are the words of the text.

    A part ends where a space follows a character that is not white space. No pattern of PATTERNS matches
    across such a place, or looks past it. Normal form C of the parts, joined, is that of the text, as a space
    never composes with the character before it.

    Args:
        text: any string.
        size: minimum length of all parts but the last, >= 1; a part extends to the next such place.

    Returns:
        Parts in order; joined, they are the text.

    Example:
        >>> list(split_chunks("one two  three", 4))
        ['one two', '  three']
    """
    start, end = 0, len(text)
    while end - start > size:
        cut = text.find(" ", start + size)
        while cut > 0 and text[cut - 1].isspace():
            cut = text.find(" ", cut + 1)
        if cut < 0:
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def chunker(cutter: Splitter) -> Callable[[str], Iterator[str]]:
    """Returns `split_chunks` for a pattern of PATTERNS; for others a function that yields the whole text."""
    return split_chunks if cutter.covers else _single_chunk


def check_pattern(pattern: str) -> None:
    """Refuses a pattern that is neither a name of PATTERNS nor a regular expression without capturing groups.

    Raises:
        ValueError: with the fault and the names.
    """
    choices = f"use one of {', '.join(PATTERNS)}, or a regular expression"
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"pattern must be a string, got {pattern!r}; {choices}")
    if pattern in PATTERNS:
        return
    if re.fullmatch(r"\w+", pattern):
        raise ValueError(f"there is no split pattern named {pattern!r}; {choices}")
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(
            f"the split pattern {pattern!r} is not a regular expression ({error}); {choices}"
        ) from None
    if compiled.groups:
        raise ValueError(
            f"the split pattern {pattern!r} has a capturing group; write (?:...) instead of (...)"
        )


def _words_and_gaps(pattern: regex.Pattern, text: str) -> list[str]:
    """Matches and the gaps between them, in order, without empty ones."""
    result, end = [], 0
    for match in pattern.finditer(text):
        result += [text[end : match.start()], match.group()]
        end = match.end()
    return [word for word in [*result, text[end:]] if word]


def _single_chunk(text: str) -> Iterator[str]:
    yield text
