"""A tokenizer's description turned into look-up tables, which `encoder` works with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from data_pipes.tokenizer.added import CHOICES, Finder, finder
from data_pipes.tokenizer.byte_level import BYTES, to_bytes
from data_pipes.tokenizer.merge import Merges, merges_of
from data_pipes.tokenizer.spec import TokenizerSpec, token_ids
from data_pipes.tokenizer.split import Splitter, splitter


class Tables(NamedTuple):
    """A spec, made ready for encoding and decoding.

    Fields:
        spec: what it was made from.
        cutter: the compiled split pattern.
        finders: for each of `added.CHOICES`, what to look for in a text.
        symbols: byte, or code point of a character -> id.
        merges: ranks of pairs of ids.
        unknown: id of `unk_token`, or None.
        whole: word -> id of words that are tokens, for `ignore_merges`; else empty.
        contents: id -> the bytes it stands for.
    """

    spec: TokenizerSpec
    cutter: Splitter
    finders: dict[str, Finder]
    symbols: dict[int, int]
    merges: Merges
    unknown: int | None
    whole: dict[str, int]
    contents: dict[int, bytes]


def tables_of(spec: TokenizerSpec) -> Tables:
    """Makes the look-up tables of a spec."""
    ids, byte_level = token_ids(spec), spec.kind == "byte_level"
    contents = {i: to_bytes(token) if byte_level else token.encode() for token, i in ids.items()}
    contents.update({token.id: token.content.encode() for token in spec.added_tokens})
    single = {c: i for c, i in ids.items() if len(c) == 1 and (c in BYTES or not byte_level)}
    symbols = {BYTES[c] if byte_level else ord(c): i for c, i in single.items()}
    return Tables(
        spec=spec,
        cutter=splitter(spec.pattern),
        finders={choice: finder(spec, choice) for choice in CHOICES},
        symbols=symbols,
        merges=merges_of([(ids[a], ids[b]) for a, b in spec.merges], [ids[a + b] for a, b in spec.merges]),
        unknown=ids[spec.unk_token] if spec.unk_token else None,
        whole=_whole_words(ids, byte_level) if spec.ignore_merges else {},
        contents=contents,
    )


def symbol_ids(tables: Tables, word: str) -> list[int]:
    """Writes a word as the ids of its bytes or characters, before any merge; unknown ones as the unknown token's.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("?", "a"), merges=(), pattern="gpt2", unk_token="?")
        >>> symbol_ids(tables_of(spec), "axxa")
        [1, 0, 0, 1]
    """
    ids: list = list(map(tables.symbols.get, units(tables, word)))
    if None in ids and tables.spec.fuse_unk:
        ids = [i for i, before in zip(ids, [0, *ids], strict=False) if not (i is None and before is None)]
    if None in ids:
        ids = [tables.unknown if i is None else i for i in ids]
    return ids


def units(tables: Tables, text: str) -> Iterable[int]:
    """What BPE starts from: bytes, or code points of characters."""
    return text.encode() if tables.spec.kind == "byte_level" else map(ord, text)


def _whole_words(ids: Mapping[str, int], byte_level: bool) -> dict[str, int]:
    """Words that are tokens -> id. A token of half a character is no word."""
    if not byte_level:
        return dict(ids)
    result = {}
    for token, i in ids.items():
        if all(character in BYTES for character in token):
            try:
                result[to_bytes(token).decode()] = i
            except UnicodeDecodeError:
                continue
    return result
