"""Read tiktoken's format: tokens as bytes with their ranks, from which merges are derived.

tiktoken stores no merges: two neighbours merge if their joined bytes are a token, the token of lowest rank
first. So every cut of a token into two tokens is a merge, in the order of the tokens' ranks.

Source: the format and the algorithm of tiktoken 0.14, and Llama 3's and Qwen's tokenizer files.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from data_pipes.tokenizer.bpe import split_in_two
from data_pipes.tokenizer.byte_level import CHARACTERS
from data_pipes.tokenizer.encoder import from_spec
from data_pipes.tokenizer.spec import AddedToken, Tokenizer, TokenizerSpec


def from_tiktoken(text: str, *, pattern: str, special_tokens: Mapping[str, int]) -> Tokenizer:
    """Makes a tokenizer from the text of a tiktoken file.

    Args:
        text: a line "base64-of-the-token rank" for each token; ranks 0, 1, ... are the ids.
        pattern: the split pattern, which the file does not contain: a name of `split.PATTERNS`, or an
            expression.
        special_tokens: token -> id, above the ranks and at most 100,000 above the first free id. A free id
            between them gets the special token "<|unused_ID|>".

    Returns:
        A byte-level Tokenizer that gives tiktoken's ids.

    Steps:
        1. Read tokens by rank.
        2. Cut every token in two wherever both parts are tokens: each cut is a merge; they are in the order
           of the token's rank, then of the parts' ranks.
        3. Number the special tokens, and fill the gaps between them.

    Edge cases: a word that is a token is not merged (`ignore_merges`), as in tiktoken. If two cuts of a token
        overlap in a run ("aa" "a" "aa" with the token "aaa"), tiktoken merges the leftmost pair, this
        tokenizer the pair whose parts have the lower ranks.

    Raises:
        ValueError: if a line is not "base64 rank", ranks have gaps, or a special token's id is taken.

    Example:
        >>> lines = ["YQ== 0", "Yg== 1", "YWI= 2"]  # a, b, ab
        >>> tokenizer = from_tiktoken("\\n".join(lines), pattern="gpt2", special_tokens={"<|end|>": 4})
        >>> tokenizer.encode("abb"), tokenizer.spec.merges
        ([2, 1], (('a', 'b'),))
        >>> [token.content for token in tokenizer.spec.added_tokens]
        ['<|unused_3|>', '<|end|>']
    """
    # 1. Tokens.
    tokens = _read_tokens(text)
    # 2. Merges.
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        for a, b in split_in_two(token, ranks):
            merges.append((_to_byte_alphabet(tokens[a]), _to_byte_alphabet(tokens[b])))
    # 3. Special tokens.
    return from_spec(
        TokenizerSpec(
            kind="byte_level",
            vocab=tuple(map(_to_byte_alphabet, tokens)),
            merges=tuple(merges),
            pattern=pattern,
            added_tokens=_number_special_tokens(special_tokens, len(tokens)),
            ignore_merges=True,
        )
    )


def _read_tokens(text: str) -> list[bytes]:
    """Reads lines into tokens by rank."""
    by_rank: dict[int, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            by_rank[int(rank)] = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"tiktoken file: line {number} must be 'base64 rank', got {line[:80]!r}"
            ) from None
    missing = [i for i in range(len(by_rank)) if i not in by_rank]
    if missing:
        raise ValueError(
            f"tiktoken file: ranks must be 0 ... {len(by_rank) - 1} without a gap; {missing[0]} is missing"
        )
    return [by_rank[i] for i in range(len(by_rank))]


def _number_special_tokens(special_tokens: Mapping[str, int], first: int) -> tuple[AddedToken, ...]:
    """Lists special tokens in the order of their ids from `first` on, with gaps filled."""
    by_id = {i: token for token, i in special_tokens.items()}
    low, last = min(by_id, default=first), max(by_id, default=first - 1)
    if len(by_id) < len(special_tokens) or low < first or last - first > 100_000:
        raise ValueError(
            f"tiktoken file: special tokens need ids of their own from {first} on, at most "
            f"{first + 100_000}, got {dict(special_tokens)}"
        )
    return tuple(AddedToken(by_id.get(i, f"<|unused_{i}|>"), i) for i in range(first, last + 1))


def _to_byte_alphabet(token: bytes) -> str:
    """Writes bytes as the 256 printable characters of `byte_level`."""
    return "".join(CHARACTERS[byte] for byte in token)
