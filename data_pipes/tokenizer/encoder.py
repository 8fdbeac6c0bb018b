"""Encode and decode fast: the same ids as `bpe.apply_merges` and `byte_level.encode`, merging each word once.

Words repeat, so the ids of each word are cached as bytes, and the ids of a text are the concatenation of its
words' bytes; most of the remaining time is spent on the split pattern. Words are collected from many texts,
and those that are not cached are merged in one batch.

Sennrich et al. 2016; the tests compare ids with `byte_level.encode` and with Hugging Face tokenizers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from operator import index

import numpy as np

from data_pipes.tokenizer.added import Finder, compile_finder, split_added
from data_pipes.tokenizer.byte_level import utf8
from data_pipes.tokenizer.decoder import BYTE_LEVEL, JOINED, make_decoder, run_decoder
from data_pipes.tokenizer.merge import NOTHING, merge_word, merge_words
from data_pipes.tokenizer.pre_tokenizer import prepend_space
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec, decoder_steps, vocabulary_size
from data_pipes.tokenizer.split import chunker, split_words
from data_pipes.tokenizer.tables import Tables, base_units, depends_on_position, make_tables, symbol_ids

WORDS_PER_ROUND = 1 << 19
"""Number of words that are collected before those that are not cached are merged in one batch."""

MAX_CACHED_WORDS = 1 << 20
"""Largest number of distinct words in the cache; a larger cache is emptied."""

MAX_ID = 1 << 32

MIN_BATCH = 200
"""Smallest number of new words that are merged as matrices; fewer are faster one by one."""

WIDTHS = (4, 8, 12, 16, 24, 48)
"""Widths of the matrices, symbols: a word goes into the narrowest that fits; longer ones are merged alone."""


def from_spec(spec: TokenizerSpec) -> Tokenizer:
    """Builds a tokenizer: binds `encode`, `decode` and `encode_batch` to the tables of a spec.

    Example:
        >>> vocab, merges = ("a", "b", "ab"), (("a", "b"),)
        >>> spec = TokenizerSpec(kind="character", vocab=vocab, merges=merges, pattern="gpt2")
        >>> tokenizer = from_spec(spec)
        >>> tokenizer.encode("aab"), tokenizer.decode([0, 2])
        ([0, 2], 'aab')
    """
    tables = make_tables(spec)
    return Tokenizer(spec, partial(encode, tables), partial(decode, tables), partial(encode_batch, tables))


def add_special_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """Makes a tokenizer with more special tokens, whose ids follow the last one; existing ids do not change.

    The embedding must then be resized to `vocabulary_size` rows.

    Raises:
        ValueError: if a token is an added token already, is given twice, or is in the vocabulary.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a", "b"), merges=(), pattern="gpt2")
        >>> add_special_tokens(from_spec(spec), ["<|user|>", "<|end|>"]).encode("a<|end|>", special="all")
        [0, 3]
    """
    spec, size = tokenizer.spec, vocabulary_size(tokenizer)
    added = tuple(AddedToken(token, size + i) for i, token in enumerate(tokens))
    return from_spec(replace(spec, added_tokens=spec.added_tokens + added))


def encode(
    tables: Tables, text: str, *, special: str | Iterable[str] = "none", template: bool = False
) -> list[int]:
    """Encodes one text.

    Args:
        tables: tables of the tokenizer, bound by `from_spec`.
        text: valid Unicode.
        special: treatment of special tokens in the text. "none": they are plain text, so that a prompt cannot
            inject control tokens; "all": they become tokens; "error": they are refused; or an iterable of
            special tokens to recognize, all others being plain text. Added tokens that are not special are
            always recognized.
        template: add the spec's prefix and suffix (such as the bos token) to the ids.

    Returns:
        The ids.

    Raises:
        TypeError: if `text` is not a string.
        ValueError: if the text has half of a surrogate pair, a character that the vocabulary lacks, or (with
            special="error") a special token.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> tokenizer = train(["a b"], 258, special_tokens=["<|end|>", "<|pad|>"])
        >>> tokenizer.encode("!<|end|>", special="all"), len(tokenizer.encode("!<|end|>"))
        ([2, 0], 8)
    """
    return encode_batch(tables, [text], special=special, template=template)[0].tolist()


def encode_batch(
    tables: Tables, texts: Iterable[str], *, special: str | Iterable[str] = "none", template: bool = False
) -> list[np.ndarray]:
    """Encodes many texts; larger batches are faster, since each distinct word is merged once.

    Args:
        tables: tables of the tokenizer, bound by `from_spec`.
        texts: strings.
        special: as in `encode`.
        template: as in `encode`.

    Returns:
        The ids of each text, [n] int32, writable.

    Steps:
        1. Find added tokens in the text; the segments between them are plain text.
        2. Split the segments into words.
        3. After WORDS_PER_ROUND words, encode those that are not cached: by look-up if the spec ignores
           merges for words that are tokens, else by merging.
        4. Concatenate the ids of each text as bytes, and view them as int32.

    Raises:
        TypeError: if `texts` is one string, or contains anything but strings.
        ValueError: as in `encode`, with the index of the text.

    Example:
        >>> from data_pipes.tokenizer.trainer import train
        >>> train(["a b"], 257, special_tokens=["<|end|>"]).encode_batch(["!", "!!"])
        [array([1], dtype=int32), array([1, 1], dtype=int32)]
    """
    if isinstance(texts, str | bytes):
        raise TypeError("encode_batch: texts must be several strings, got one; use encode, or write [text]")
    finder = tables.finders.get(special) if isinstance(special, str) else None
    if finder is None:
        finder = compile_finder(tables.spec, special)
    before = _pack(tables.spec.prefix if template else ())
    after = _pack(tables.spec.suffix if template else ())
    buffers: list[bytearray] = []
    pending: list[tuple[bytearray, bytes | list[str]]] = []
    cache: dict[str, bytes] = {}
    count = 0
    for i, text in enumerate(texts):
        buffers.append(bytearray(before))
        try:
            # 1. Added tokens.
            # 2. Words between them.
            for part in _split_text(tables, finder, text):
                pending.append((buffers[-1], part))
                count += len(part)
                # 3. Ids of new words.
                if count > WORDS_PER_ROUND:
                    _append_ids(tables, cache, pending)
                    pending, count = [], 0
        except (TypeError, ValueError) as error:
            raise type(error)(f"encode: {error} (text {i})") from None
        pending.append((buffers[-1], after))
    _append_ids(tables, cache, pending)
    # 4. Bytes as int32.
    return [np.frombuffer(buffer, np.int32) if buffer else np.empty(0, np.int32) for buffer in buffers]


def decode(tables: Tables, ids: Iterable[int], *, skip_special: bool = False, errors: str = "replace") -> str:
    """Decodes ids to text.

    For a byte-level tokenizer `decode(encode(text)) == text` for every text (its normal form, if the spec
    has a normalizer), unless an added token contains letters of the byte alphabet such as "é".

    Args:
        tables: tables of the tokenizer, bound by `from_spec`.
        ids: [n] integers: a list, an array or a tensor.
        skip_special: skip special tokens.
        errors: treatment of invalid UTF-8, such as an incomplete character: "replace" (by U+FFFD), "strict"
            or "ignore".

    Returns:
        The text. An id without a token, such as that of a padding row of the embedding, is skipped.

    Raises:
        ValueError: if a value is not an id (a negative number, a float), or if `ids` has more than one axis.

    Example:
        >>> spec = TokenizerSpec(kind="character", vocab=("a", "b"), merges=(), pattern="gpt2")
        >>> from_spec(spec).decode([1, 0])
        'ba'
    """
    row = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if skip_special:
        row = [i for i in row if i not in tables.hidden]
    try:
        return _join_tokens(tables, row, errors)
    except (KeyError, TypeError):
        return _join_tokens(tables, _valid_ids(tables, row), errors)


def _join_tokens(tables: Tables, row: Sequence[int], errors: str) -> str:
    """Decodes ids that all have tokens."""
    steps = decoder_steps(tables.spec)
    if steps in (BYTE_LEVEL, JOINED):
        return b"".join(map(tables.contents.__getitem__, row)).decode(errors=errors)
    return run_decoder(make_decoder(steps, errors), map(tables.texts.__getitem__, row))


def _valid_ids(tables: Tables, row: Sequence[int]) -> list[int]:
    """Returns the ids that have tokens; refuses values that are not ids."""
    valid = []
    for position, i in enumerate(row):
        try:
            number = index(i)
        except TypeError:
            raise ValueError(
                f"decode: ids must be one row of integers, got {i!r} at {position}; decode rows one by one"
            ) from None
        if not 0 <= number < MAX_ID:
            raise ValueError(f"decode: {i} (at {position}) is not an id; ids are integers >= 0")
        if number in tables.texts:
            valid.append(number)
    return valid


def _split_text(tables: Tables, finder: Finder, text: object) -> Iterator[bytes | list[str]]:
    """Yields the added tokens of a text as int32 bytes, and lists of the words between them, in order."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}; decode it first")
    if not text.isascii():
        utf8(text)  # raises if there is half of a surrogate pair
    for i, segment in enumerate(split_added(finder, text)):
        if isinstance(segment, int):
            yield _pack([segment])
        else:
            yield from _split_words(tables, segment, i == 0)


def _split_words(tables: Tables, text: str, first: bool) -> Iterator[list[str]]:
    """Yields lists of the words of a plain-text segment; `first` if it is at the beginning of the text."""
    spec, cutter, borders = tables.spec, tables.cutter, tables.borders
    pieces = tables.pieces(text, first) if spec.pre_tokenizer else [text]
    if spec.prefix_space:
        pieces = list(map(prepend_space, pieces))
    for piece in pieces:
        _check_symbols(tables, piece)
    lists: Iterator[list[str]]
    if len(pieces) == 1:
        lists = (split_words(cutter, chunk) for chunk in chunker(cutter)(pieces[0]))
    else:
        lists = iter([[word for piece in pieces for word in split_words(cutter, piece)]])
    for words in lists:
        yield words if borders is None else [part for word in words for part in borders.split(word)]


def _check_symbols(tables: Tables, text: str) -> None:
    """Refuses text with bytes or characters that are not in the vocabulary, unless there is an unk_token."""
    byte_level = tables.spec.kind == "byte_level"
    if (
        tables.unknown is not None
        or depends_on_position(tables.spec)
        or (byte_level and len(tables.symbols) == 256)
    ):
        return
    missing = [unit for unit in dict.fromkeys(base_units(tables, text)) if unit not in tables.symbols]
    if missing:
        name = f"byte 0x{missing[0]:02x}" if byte_level else f"character {chr(missing[0])!r}"
        raise ValueError(
            f"the vocabulary has no token for the {name}; train on text that has it, or on bytes"
        )


def _append_ids(
    tables: Tables, cache: dict[str, bytes], pending: Sequence[tuple[bytearray, bytes | list[str]]]
) -> None:
    """Appends the ids of pending words and tokens to their buffers; new words are encoded and cached."""
    if len(cache) > MAX_CACHED_WORDS:
        cache.clear()
    new = set().union(*(part for _, part in pending if isinstance(part, list))) - cache.keys()
    cache.update(_encode_words(tables, list(new)))
    look_up = cache.__getitem__
    for buffer, part in pending:
        buffer += b"".join(map(look_up, part)) if isinstance(part, list) else part


def _encode_words(tables: Tables, new: Sequence[str]) -> dict[str, bytes]:
    """Encodes new words: {word: its ids as int32 bytes}."""
    result = {word: _pack([tables.token_words[word]]) for word in new if word in tables.token_words}
    rest = [word for word in new if word not in tables.token_words]
    symbols, sizes = _symbol_rows(tables, rest)
    widest = WIDTHS[-1] if len(rest) >= MIN_BATCH else 0
    ends = sizes.cumsum()
    for i in np.flatnonzero(sizes > widest):
        result[rest[i]] = _pack(merge_word(symbols[ends[i] - sizes[i] : ends[i]].tolist(), tables.merges))
    for low, high in pairwise((0, *WIDTHS)) if widest else ():
        chosen = (low < sizes) & (sizes <= high)
        picked = np.flatnonzero(chosen)
        rows = np.full((len(picked), high), NOTHING, np.int64)
        rows[np.arange(high) < sizes[picked, None]] = symbols[np.repeat(chosen, sizes)]
        for indices, tokens in merge_words(rows, tables.merges):
            result.update(zip([rest[i] for i in picked[indices]], _pack_rows(tokens), strict=True))
    return result


def _symbol_rows(tables: Tables, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`symbol_ids` of all words, concatenated, int64; number of symbols of each word, int64)."""
    if (
        tables.spec.kind == "byte_level"
        and len(tables.symbols) == 256
        and not depends_on_position(tables.spec)
    ):
        pieces: list = [word.encode() for word in words]
        ids_of_bytes = np.array([tables.symbols[byte] for byte in range(256)], np.int64)
        return ids_of_bytes[np.frombuffer(b"".join(pieces), np.uint8)], np.fromiter(
            map(len, pieces), np.int64, len(pieces)
        )
    pieces = [symbol_ids(tables, word) for word in words]
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    return np.fromiter(chain.from_iterable(pieces), np.int64, int(sizes.sum())), sizes


def _pack_rows(tokens: np.ndarray) -> Iterator[bytes]:
    """Yields the rows of [w, l] ids as int32 bytes, without NOTHING at the end."""
    data, width = tokens.astype(np.int32).tobytes(), 4 * tokens.shape[1]
    for i, size in enumerate((4 * (tokens != NOTHING).sum(1)).tolist()):
        yield data[i * width : i * width + size]


def _pack(ids: Sequence[int]) -> bytes:
    """Ids as int32 bytes."""
    return array("i", ids).tobytes()
