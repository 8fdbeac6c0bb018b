"""Byte-level BPE: text as UTF-8 bytes, bytes as 256 printable characters, then BPE on characters as in `bpe`.

An alphabet of characters is incomplete: some text has a character that is not in the training data. The 256
bytes can represent every text. GPT-2 maps each byte to a printable character ("Ġ" is the space), so that
tokens can be printed, and stored in JSON.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from data_pipes.tokenizer import bpe
from data_pipes.tokenizer.split import Splitter, split_words

PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
UNPRINTABLE = tuple(byte for byte in range(256) if byte not in PRINTABLE)
CHARACTERS: Mapping[int, str] = MappingProxyType(
    {**{byte: chr(byte) for byte in PRINTABLE}, **{byte: chr(256 + i) for i, byte in enumerate(UNPRINTABLE)}}
)
"""byte -> its character: a printable Latin-1 byte is itself, the others are U+0100, U+0101, ... in order."""

BYTES: Mapping[str, int] = MappingProxyType({character: byte for byte, character in CHARACTERS.items()})
"""character -> byte."""

ALPHABET: tuple[str, ...] = tuple(sorted(BYTES))
"""The 256 characters in order of code points: the order of their ids in GPT-2's vocabulary, and in ours."""


def to_characters(text: str) -> str:
    """Writes text in the byte alphabet: one character for each byte of its UTF-8 encoding.

    BPE works on characters. In this alphabet every text has 256 different ones at most, so no text has an
    unknown character, and every token can be printed.

    Args:
        text: any string of n characters.

    Returns:
        m characters of `ALPHABET`, n <= m <= 4 n.

    Steps:
        1. Encode the text as UTF-8 with `utf8`: m bytes.
        2. Look up the character of each byte in `CHARACTERS`, and join them.

    Edge cases: an empty text gives an empty string.

    Raises:
        ValueError: if the text has half of a surrogate pair, which UTF-8 cannot encode.

    Example:
        The space is byte 32, written Ġ; é is the two bytes 195 and 169.

        >>> to_characters(" é")
        'ĠÃ©'

    Source: Radford et al. 2019, section 2.2, and its code.
    """
    # 1. m bytes.
    data = utf8(text)
    # 2. m characters of the alphabet.
    return "".join(CHARACTERS[byte] for byte in data)


def to_bytes(token: str) -> bytes:
    """Decodes a token of the byte alphabet to bytes; a token with other characters is encoded as UTF-8.

    The inverse of `to_characters` for one token. A special token such as "<|end|>" is stored as plain text;
    if it has a character outside the alphabet, it is not in the byte alphabet at all.

    Args:
        token: a token of the vocabulary.

    Returns:
        Its bytes.

    Steps:
        1. Look up the byte of each character in `BYTES`.
        2. If a character is not in the table, encode the whole token as UTF-8 instead.

    Edge cases: a token of ASCII letters is the same in both; a token with one character outside the alphabet
    is encoded as UTF-8 completely, its other characters too.

    Example:
        >>> to_bytes("ĠÃ©"), to_bytes("<｜end｜>")
        (b' \\xc3\\xa9', b'<\\xef\\xbd\\x9cend\\xef\\xbd\\x9c>')

    Source: Radford et al. 2019, section 2.2, and its code; special tokens as in Hugging Face tokenizers.
    """
    # 1. One byte for each character.
    try:
        return bytes([BYTES[character] for character in token])
    except KeyError:
        # 2. A character outside the alphabet: UTF-8 of the whole token.
        return token.encode()


def utf8(text: str) -> bytes:
    """Encodes text as UTF-8, with a clear error for invalid Unicode.

    Raises:
        ValueError: if the text has half of a surrogate pair (often from `errors="surrogateescape"`).
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has {text[error.start]!r} at {error.start}, half of a surrogate pair and not a character; "
            'clean it first, for instance with text.encode("utf-8", "replace").decode()'
        ) from None


def learn_merges(
    word_counts: Mapping[str, int],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (),
    min_frequency: int = 2,
) -> tuple[list[str], list[bpe.Pair]]:
    """Learns byte-level merges: `bpe.learn_merges` on words written in the byte alphabet.

    Args:
        word_counts: word of plain text -> its count.
        vocab_size: largest number of tokens: special tokens, 256 bytes and merged tokens together.
        special_tokens: tokens with the first ids; no merge may produce one of them.
        min_frequency: as in `bpe.learn_merges`.

    Returns:
        (vocab, merges) as in `bpe.learn_merges`, written in the byte alphabet.

    Example:
        >>> vocab, merges = learn_merges({" a": 2}, 258, special_tokens=["<|end|>"])
        >>> vocab[0], vocab[1], vocab[257], merges
        ('<|end|>', '!', 'Ġa', [('Ġ', 'a')])
    """
    counts = {to_characters(word): count for word, count in word_counts.items()}
    vocab = [*special_tokens, *ALPHABET]
    return bpe.learn_merges(counts, vocab, vocab_size, min_frequency=min_frequency, forbidden=special_tokens)


def encode(text: str, cutter: Splitter, ranks: Mapping[bpe.Pair, int], ids: Mapping[str, int]) -> list[int]:
    """Encodes text without special tokens: split, write as bytes, merge, look up.

    The whole tokenizer in four lines. `encoder` is the fast form of it, with special tokens.

    Args:
        text: any string.
        cutter: from `split.splitter(pattern)`.
        ranks: pair of tokens -> rank, from `bpe.rank_merges(merges)`.
        ids: token -> id; has every character of the byte alphabet that occurs, and every merged token.

    Returns:
        The ids of all tokens, in the order of the text.

    Steps:
        1. Cut the text into words with `split_words(cutter, text)`.
        2. Write each word in the byte alphabet with `to_characters`.
        3. Merge each word by itself with `bpe.apply_merges`.
        4. Look up the ids of its tokens, and append them to the result.

    Edge cases: an empty text has no ids.

    Raises:
        ValueError: as `to_characters`, for half of a surrogate pair.

    Example:
        The words are "a" and " a"; the second is merged to one token.

        >>> from data_pipes.tokenizer.split import splitter
        >>> encode("a a", splitter("gpt2"), {("Ġ", "a"): 0}, {"a": 5, "Ġa": 6})
        [5, 6]

    Source: Radford et al. 2019, section 2.2.
    """
    row = []
    # 1. Words.
    for word in split_words(cutter, text):
        # 2. The word in the byte alphabet.
        characters = to_characters(word)
        # 3. Merge: the word's tokens.
        tokens = bpe.apply_merges(characters, ranks)
        # 4. Their ids, appended to the row.
        row += [ids[token] for token in tokens]
    return row


def decode(tokens: Iterable[str], errors: str = "replace") -> str:
    """Joins tokens of the byte alphabet into text.

    A token may end in the middle of a character, so the bytes of all tokens are decoded together: decoding
    one token after the other would give U+FFFD for each part of such a character.

    Args:
        tokens: tokens in order.
        errors: treatment of invalid UTF-8: "replace" (by U+FFFD), "strict" or "ignore".

    Returns:
        The text.

    Steps:
        1. Decode each token with `to_bytes`, and join the bytes of all tokens.
        2. Decode these bytes as UTF-8 once, with `errors`.

    Edge cases: no tokens give an empty string. A row that was cut in the middle of a character ends in
    U+FFFD with "replace".

    Raises:
        UnicodeDecodeError: with errors="strict", for invalid UTF-8.

    Example:
        é has two bytes, in two tokens; the last byte begins a character that is not finished.

        >>> decode(["Ã", "©t", "Ã"])
        'ét�'

    Source: Radford et al. 2019, section 2.2.
    """
    # 1. The bytes of all tokens together.
    data = b"".join(map(to_bytes, tokens))
    # 2. UTF-8, once.
    return data.decode(errors=errors)
