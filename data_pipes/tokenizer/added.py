"""Find added tokens (special ones and others) in text, before it is split into words.

A special token such as "<|im_end|>" steers a model. Untrusted text may spell it too, so by default it is
plain text; code that builds a prompt enables it.

Source: Hugging Face tokenizers, for the order: tokens in the raw text, normalisation, tokens in normalised
text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import regex

from data_pipes.tokenizer.normalizer import BLANK, normalizer
from data_pipes.tokenizer.pieces import WORD
from data_pipes.tokenizer.spec import AddedToken, TokenizerSpec

CHOICES = ("none", "all", "error")
IN_WORD = regex.compile(WORD)
BLANKS = re.compile(f"[{BLANK}]*")


class Finder(NamedTuple):
    """Compiled patterns of added tokens.

    Fields:
        raw: of tokens that are found before normalisation; None without any.
        normal: of tokens that are found after normalisation.
        refused: of special tokens that are an error.
        raw_tokens: match of `raw` -> its token; None if it is plain text.
        normal_tokens: the same for `normal`.
        normalise: text -> normalised text.
    """

    raw: re.Pattern | None
    normal: re.Pattern | None
    refused: re.Pattern | None
    raw_tokens: dict[str, AddedToken | None]
    normal_tokens: dict[str, AddedToken | None]
    normalise: Callable[[str], str]


def compile_finder(spec: TokenizerSpec, special: str | Iterable[str]) -> Finder:
    """Compiles the patterns for a value of `special`.

    Args:
        spec: the tokenizer's.
        special: "none", "all", "error", or the special tokens to find, as in `encoder.encode`.

    Returns:
        A Finder. Added tokens that are not special are always found. A special token that is left as
        plain text still takes its characters from the tokens it overlaps, as in Hugging Face tokenizers.

    Raises:
        ValueError: if `special` has another value or names an unknown token, or normalisation makes an added
            token empty.
    """
    known = {token.content for token in spec.added_tokens if token.special}
    if not isinstance(special, Iterable) or (isinstance(special, str) and special not in CHOICES):
        raise ValueError(
            f'encode: special must be "none", "all", "error" or a list of tokens, got {special!r}'
        )
    names = set() if isinstance(special, str) else {*special}
    if special == "all":
        names = known
    if names - known:
        have = ", ".join(sorted(known)) or "none"
        raise ValueError(
            f"encode: {sorted(names - known)} are not special tokens of this tokenizer; it has {have}"
        )
    normalise = normalizer(spec.normalizer)
    raw: dict[str, AddedToken | None] = {}
    normal: dict[str, AddedToken | None] = {}
    for token in sorted(spec.added_tokens, key=lambda token: not token.special):
        tokens, content = raw, token.content
        if token.normalized:
            tokens, content = normal, normalise(content)
        if not content:
            raise ValueError(
                f"the normalizer makes the added token {token.content!r} empty; remove one of them"
            )
        tokens.setdefault(content, token if token.content in names or not token.special else None)
    refused = known if special == "error" else ()
    return Finder(
        raw=compile_any(raw) if any(raw.values()) else None,
        normal=compile_any(normal) if any(normal.values()) else None,
        refused=compile_any(refused) if refused else None,
        raw_tokens=raw,
        normal_tokens=normal,
        normalise=normalise,
    )


def split_added(finder: Finder, text: str) -> Iterator[str | int]:
    """Splits text at its added tokens: plain text (normalised) as strings, tokens as ids.

    Raises:
        ValueError: if the text has a refused token.

    Example:
        >>> from data_pipes.tokenizer.spec import AddedToken
        >>> spec = TokenizerSpec(kind="character", vocab=("a",), merges=(), pattern="gpt2",
        ...                      added_tokens=(AddedToken("<|end|>", 1),))
        >>> list(split_added(compile_finder(spec, "all"), "a<|end|>aa"))
        ['a', 1, 'aa']
        >>> list(split_added(compile_finder(spec, "none"), "a<|end|>aa"))
        ['a<|end|>aa']
    """
    if finder.refused and (match := finder.refused.search(text)):
        raise ValueError(
            f"text has the special token {match.group()!r} at {match.start()}; "
            'pass special="all" to make it a token, or special="none" to take it as text'
        )
    for segment in _split_at(finder.raw, finder.raw_tokens, text):
        if isinstance(segment, int):
            yield segment
        else:
            yield from _split_at(finder.normal, finder.normal_tokens, finder.normalise(segment))


def _split_at(
    pattern: re.Pattern | None, tokens: dict[str, AddedToken | None], text: str
) -> Iterator[str | int]:
    """Yields the text between tokens, and the tokens' ids; no empty strings."""
    end = 0
    for match in pattern.finditer(text) if pattern else ():
        token = tokens[match.group()]
        start, stop = match.span()
        if token is None or (token.single_word and _touches_word(text, start, stop)):
            continue
        if token.lstrip:
            start = end + len(text[end:start].rstrip(BLANK))
        if token.rstrip:
            stop = next(BLANKS.finditer(text, stop)).end()
        if start > end:
            yield text[end:start]
        yield token.id
        end = stop
    if end < len(text):
        yield text[end:]


def _touches_word(text: str, start: int, stop: int) -> bool:
    """True if a word character is directly before or after the match."""
    return bool(IN_WORD.match(text[start - 1 : start]) or IN_WORD.match(text[stop : stop + 1]))


def compile_any(texts: Iterable[str]) -> re.Pattern:
    """Compiles a pattern that matches any of these texts, the longest first; without texts it never matches.

    Example:
        >>> compile_any(["a", "ab"]).findall("abb a"), compile_any([]).search("a")
        (['ab', 'a'], None)
    """
    longest_first = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
