"""Compute the look-up tables of a TokenizerSpec, for `encoder`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from data_pipes.tokenizer.added import CHOICES, Finder, compile_finder
from data_pipes.tokenizer.byte_level import BYTES, to_bytes, to_characters
from data_pipes.tokenizer.decoder import BYTE_LEVEL
from data_pipes.tokenizer.merge import Merges, index_merges
from data_pipes.tokenizer.pre_tokenizer import pre_tokenizer
from data_pipes.tokenizer.spec import TokenizerSpec, decoder_steps, hidden_ids, token_ids, token_texts
from data_pipes.tokenizer.split import Splitter, splitter

MARK = "▁"
"""SentencePiece's mark of a space."""


class Tables(NamedTuple):
    """Look-up tables for encoding and decoding.

    Fields:
        spec: the tokenizer's spec.
        pieces: the steps of the pre-tokenizer: (text, True if it begins the whole text) -> pieces.
        cutter: the compiled split pattern.
        borders: matches places where a word can be cut without changing its tokens, as no merge crosses
            them; None if that is not certain. They keep words short where no pre-tokenizer cuts the text.
        finders: for each of `added.CHOICES`, the patterns of added tokens.
        symbols: byte, or code point of a character -> id.
        ids: token -> id, without the added tokens that are not in the vocabulary.
        merges: ranks of pairs of ids.
        unknown: id of `unk_token`, or None.
        token_words: word -> id of words that are tokens, for `ignore_merges`; else empty.
        contents: id -> its bytes, for decoders that only join them.
        texts: id -> token to decode.
        hidden: ids that `skip_special` skips.
    """

    spec: TokenizerSpec
    pieces: Callable[[str, bool], list[str]]
    cutter: Splitter
    borders: re.Pattern | None
    finders: dict[str, Finder]
    symbols: dict[int, int]
    ids: dict[str, int]
    merges: Merges
    unknown: int | None
    token_words: dict[str, int]
    contents: dict[int, bytes]
    texts: dict[int, str]
    hidden: frozenset[int]


def make_tables(spec: TokenizerSpec) -> Tables:
    """Makes the look-up tables of a spec."""
    ids, byte_level = token_ids(spec), spec.kind == "byte_level"
    prefix_length = len(spec.continuing_subword_prefix)
    texts = token_texts(spec)
    encode_text = to_bytes if decoder_steps(spec) == BYTE_LEVEL else str.encode
    single = {c: i for c, i in ids.items() if len(c) == 1 and (c in BYTES or not byte_level)}
    symbols = {BYTES[c] if byte_level else ord(c): i for c, i in single.items()}
    return Tables(
        spec=spec,
        pieces=pre_tokenizer(spec.pre_tokenizer),
        cutter=splitter(spec.pattern),
        borders=_word_borders(spec, ids),
        finders={choice: compile_finder(spec, choice) for choice in CHOICES},
        symbols=symbols,
        ids=ids,
        merges=index_merges(
            [(ids[a], ids[b]) for a, b in spec.merges],
            [ids[a + b[prefix_length:]] for a, b in spec.merges],
        ),
        unknown=ids.get(spec.unk_token) if spec.unk_token else None,
        token_words=_token_words(ids, byte_level) if spec.ignore_merges else {},
        contents={i: encode_text(text) for i, text in texts.items()},
        texts=texts,
        hidden=hidden_ids(spec),
    )


def symbol_ids(tables: Tables, word: str) -> list[int]:
    """Returns the ids of a word's bytes or characters, before any merge, or of the unknown token.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("?", "a"), merges=(), pattern="gpt2", unk_token="?")
        >>> symbol_ids(make_tables(spec), "axxa")
        [1, 0, 0, 1]
    """
    if depends_on_position(tables.spec):
        return _positional_symbols(tables, word)
    ids: list = list(map(tables.symbols.get, base_units(tables, word)))
    if None in ids and tables.spec.fuse_unk:  # of a run of unknown symbols, keep the first
        ids = [i for i, before in zip(ids, [0, *ids], strict=False) if not (i is None and before is None)]
    if None in ids:
        ids = [tables.unknown if i is None else i for i in ids]
    return ids


def depends_on_position(spec: TokenizerSpec) -> bool:
    """Returns True if a character's id depends on its place in the word, or it falls back to bytes."""
    return spec.byte_fallback or bool(spec.continuing_subword_prefix or spec.end_of_word_suffix)


def base_units(tables: Tables, text: str) -> Iterable[int]:
    """Returns the symbols before any merge: bytes, or code points of characters."""
    return text.encode() if tables.spec.kind == "byte_level" else map(ord, text)


def _positional_symbols(tables: Tables, word: str) -> list[int]:
    """`symbol_ids` with prefix, suffix and byte fallback.

    An unknown token is written at the next known character or at the end of the word, so that a run of them
    can be fused; byte tokens between are written before it, as in Hugging Face tokenizers.
    """
    spec, ids, waiting = tables.spec, tables.ids, 0
    symbols: list[int | None] = []
    characters = to_characters(word) if spec.kind == "byte_level" else word
    for index, character in enumerate(characters):
        text = character if not index else spec.continuing_subword_prefix + character
        text = text + spec.end_of_word_suffix if index == len(characters) - 1 else text
        byte_ids = [ids.get(f"<0x{byte:02X}>") for byte in text.encode()] if spec.byte_fallback else [None]
        if text in ids:
            symbols += [tables.unknown] * waiting + [ids[text]]
            waiting = 0
        elif None not in byte_ids:
            symbols += byte_ids
        elif tables.unknown is None:
            raise ValueError(
                f"the vocabulary has no token for {text!r}; train on text that has it, or on bytes"
            )
        else:
            symbols += [tables.unknown] if waiting and not spec.fuse_unk else []
            waiting = 1
    return [i for i in [*symbols, *[tables.unknown] * waiting] if i is not None]


def _word_borders(spec: TokenizerSpec, ids: Mapping[str, int]) -> re.Pattern | None:
    """Compiles the places before a MARK, except after characters that some merge joins with it."""
    unk_and_bytes = {spec.unk_token, *(f"<0x{byte:02X}>" for byte in range(256))}
    marked = spec.kind == "character" and MARK in ids and not spec.ignore_merges
    if not marked or spec.continuing_subword_prefix or spec.end_of_word_suffix:
        return None
    if any(part in unk_and_bytes for pair in spec.merges for part in pair):
        return None
    tokens = [a + b for a, b in spec.merges]
    before = {token[i - 1] for token in tokens for i in range(1, len(token)) if token[i] == MARK}
    return re.compile(f"(?<=[^{re.escape(''.join(sorted({MARK, *before})))}])(?={MARK})")


def _token_words(ids: Mapping[str, int], byte_level: bool) -> dict[str, int]:
    """{word that is a token: id}; a token that is not valid UTF-8 is no word."""
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
