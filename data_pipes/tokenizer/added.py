"""Finding added tokens (special ones and others) in text, before it is cut into words.

A special token such as "<|im_end|>" steers a model. Text from outside may spell it too, so by default it is not found
there, and encodes as plain characters; whoever builds a prompt says where it counts.

Source: Hugging Face tokenizers, for the order: tokens in the raw text, normalisation, tokens in normalised text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_pipes.tokenizer.spec import TokenizerSpec

CHOICES = ("none", "all", "error")


class Finder(NamedTuple):
    """What to look for in a text.

    Fields:
        raw: added tokens that are found in the text as it is; None where there are none.
        normal: those that are found after normalisation.
        refused: special tokens that are an error.
        ids: what was found -> id.
        nfc: normalise to form C.
    """

    raw: re.Pattern | None
    normal: re.Pattern | None
    refused: re.Pattern | None
    ids: dict[str, int]
    nfc: bool


def finder(spec: TokenizerSpec, special: str | Iterable[str]) -> Finder:
    """Compiles what `special` asks for.

    Args:
        spec: of the tokenizer.
        special: "none", "all", "error", or the special tokens that count, as in `encoder.encode`.

    Returns:
        A Finder. Added tokens that are not special are always looked for.

    Raises:
        ValueError: if `special` is something else, or names a token that the tokenizer has not.
    """
    ours = {token.content for token in spec.added_tokens if token.special}
    if not isinstance(special, Iterable) or (isinstance(special, str) and special not in CHOICES):
        raise ValueError(f'encode: special must be "none", "all", "error" or a list of tokens, got {special!r}')
    names = ours if special == "all" else set() if isinstance(special, str) else {*special}
    if names - ours:
        have = ", ".join(sorted(ours)) or "none"
        raise ValueError(f"encode: {sorted(names - ours)} are no special tokens of this tokenizer; it has {have}")
    wanted = [token for token in spec.added_tokens if token.content in names or not token.special]
    normal = {normalise(token.content, spec.nfc): token.id for token in wanted if token.normalized}
    raw = {token.content: token.id for token in wanted if not token.normalized}
    refused = ours if special == "error" else ()
    return Finder(_any_of(raw), _any_of(normal), _any_of(refused), {**normal, **raw}, spec.nfc)


def stretches(find: Finder, text: str) -> Iterator[str | int]:
    """Cuts text at the added tokens in it: plain text (normalised) as strings, tokens as ids.

    Raises:
        ValueError: if the text has a refused token.

    Example:
        >>> from data_pipes.tokenizer.spec import AddedToken
        >>> spec = TokenizerSpec(kind="character", vocab=("a",), merges=(), pattern="gpt2",
        ...                      added_tokens=(AddedToken("<|end|>", 1),))
        >>> list(stretches(finder(spec, "all"), "a<|end|>aa"))
        ['a', 1, 'aa']
        >>> list(stretches(finder(spec, "none"), "a<|end|>aa"))
        ['a<|end|>aa']
    """
    if find.refused and (match := find.refused.search(text)):
        raise ValueError(
            f"text has the special token {match.group()!r} at {match.start()}; "
            'pass special="all" to make it a token, or special="none" to take it as text'
        )
    for stretch in _cut(find.raw, find.ids, text):
        if isinstance(stretch, int):
            yield stretch
        else:
            yield from _cut(find.normal, find.ids, normalise(stretch, find.nfc))


def normalise(text: str, nfc: bool) -> str:
    """Unicode's normal form C (one code point for "é" where there is one), or the text itself."""
    return unicodedata.normalize("NFC", text) if nfc else text


def _cut(pattern: re.Pattern | None, ids: dict[str, int], text: str) -> Iterator[str | int]:
    """Text -> what lies between matches, and the matches' ids; no empty strings."""
    end = 0
    for match in pattern.finditer(text) if pattern else ():
        if match.start() > end:
            yield text[end : match.start()]
        yield ids[match.group()]
        end = match.end()
    if end < len(text):
        yield text[end:]


def _any_of(contents: Iterable[str]) -> re.Pattern | None:
    """A pattern for the leftmost of these strings, of several there the longest."""
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
