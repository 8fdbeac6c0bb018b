"""Byte-pair encoding on characters, in its simplest form: learn merges, apply merges.

Start from single characters. Repeatedly find the pair of neighbours that occurs most often in the text and
make one token of it; the ordered list of these merges is the tokenizer. To encode, apply the same merges in
the same order. `byte_level` uses bytes instead of characters; `trainer` and `merge` are fast implementations
of the same functions, and are tested against this file.

Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016, algorithm 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

Pair = tuple[str, str]


def learn_merges(
    word_counts: Mapping[str, int],
    vocab: Sequence[str],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    forbidden: Collection[str] = (),
) -> tuple[list[str], list[Pair]]:
    """Learns merges from counted words, recounting every pair each time.

    A language model should have short sequences, yet be able to write any word. Merging the most frequent
    pairs makes a common word one token and a rare word a few; other words are spelled in characters.

        merge(k) = argmax over pairs (a, b) of Σ_word word_counts[word] · #{i: s_i = a and s_(i+1) = b},
        s the word's symbols after merges 1 ... k-1

    On a tie the pair with the smaller ids is merged (first a's id is compared, then b's), so that the result
    does not depend on the order of the words.

    Args:
        word_counts: word -> its count, >= 1; every character must be in `vocab`.
        vocab: the initial tokens in the order of their ids: special tokens and the alphabet.
        vocab_size: largest number of tokens.
        min_frequency: smallest count of a pair that is merged, >= 1.
        forbidden: strings that no merge may produce (special tokens, which plain text must not become).

    Returns:
        (vocab, merges): the tokens in the order of their ids, and the pairs in the order of merging. There
        are fewer than `vocab_size` tokens if no pair is left.

    Steps:
        1. Write each word as its characters.
        2. Count neighbouring pairs over all words, except pairs merged before and forbidden ones.
        3. Take the pair with the highest count, on a tie the smaller ids; stop below `min_frequency`.
        4. Merge it from left to right in every word; the merged string becomes a token, unless it is one.
        5. Repeat from 2 until the vocabulary is full.

    Edge cases: "aaa" has the pair (a, a) twice, and merging gives (aa, a). Two different pairs may make the
    same token ("a"+"bc", "ab"+"c"): both become merges, and the token has one id.

    Example:
        Three times "ab" beats twice "bc":

        >>> learn_merges({"abc": 2, "ab": 1}, ["a", "b", "c"], 5)
        (['a', 'b', 'c', 'ab', 'abc'], [('a', 'b'), ('ab', 'c')])

    Source: Sennrich et al. 2016, algorithm 1. Differs from it: ties are broken as in Hugging Face tokenizers.
    """
    vocab, merges, done = list(vocab), [], set()
    ids = {token: i for i, token in enumerate(vocab)}
    # 1. Words as tuples of symbols.
    words = {word: tuple(word) for word in word_counts}
    while len(vocab) < vocab_size:
        # 2. Count pairs.
        counts = count_pairs(words, word_counts)
        for pair in [p for p in counts if p in done or p[0] + p[1] in forbidden]:
            del counts[pair]
        # 3. The best.
        best = max(counts, key=lambda pair: (counts[pair], -ids[pair[0]], -ids[pair[1]]), default=None)
        if best is None or counts[best] < min_frequency:
            break
        # 4. Merge.
        words = {word: merge_pair(symbols, best) for word, symbols in words.items()}
        merges.append(best)
        done.add(best)
        token = best[0] + best[1]
        if token not in ids:
            ids[token] = len(vocab)
            vocab.append(token)
        # 5. Until the vocabulary is full.
    return vocab, merges


def count_pairs(words: Mapping[str, tuple[str, ...]], word_counts: Mapping[str, int]) -> Counter[Pair]:
    """Counts pairs of neighbouring symbols over all words, weighted by the words' counts.

    Example:
        >>> count_pairs({"aab": ("a", "a", "b")}, {"aab": 3})
        Counter({('a', 'a'): 3, ('a', 'b'): 3})
    """
    counts: Counter[Pair] = Counter()
    for word, symbols in words.items():
        for pair in pairwise(symbols):
            counts[pair] += word_counts[word]
    return counts


def merge_pair(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Joins every occurrence of `pair`, from left to right.

    Example:
        >>> merge_pair(("a", "a", "a", "b"), ("a", "a"))
        ('aa', 'a', 'b')
    """
    result: list[str] = []
    i = 0
    while i < len(symbols):
        if symbols[i : i + 2] == pair:
            result.append(pair[0] + pair[1])
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return tuple(result)


def apply_merges(word: str, ranks: Mapping[Pair, int]) -> tuple[str, ...]:
    """Encodes one word: merges the neighbours of lowest rank until no pair of neighbours is a merge.

    Args:
        word: one word, as cut by the split pattern.
        ranks: pair -> its index in the list of merges, from `rank_merges(merges)`.

    Returns:
        The word's tokens, whose concatenation is the word.

    Steps:
        1. Write the word as its characters.
        2. Among the neighbouring pairs that are merges, find the one learned first, on a tie the leftmost.
        3. Join these two, and repeat from 2.

    Example:
        "b"+"c" was learned first, so "abc" becomes a|bc, and a|bc is no merge:

        >>> apply_merges("abcab", rank_merges([("b", "c"), ("a", "b")]))
        ('a', 'bc', 'ab')

    Source: Sennrich et al. 2016, section 3.2.
    """
    # 1. Characters.
    symbols = list(word)
    while True:
        # 2. The merge learned first.
        pairs = list(pairwise(symbols))
        left = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf), default=None)
        if left is None or pairs[left] not in ranks:
            return tuple(symbols)
        # 3. Join.
        symbols[left : left + 2] = [symbols[left] + symbols[left + 1]]


def rank_merges(merges: Sequence[Pair]) -> dict[Pair, int]:
    """Numbers merges in order, from 0; a repeated pair has its last index, as in Hugging Face tokenizers."""
    return {pair: i for i, pair in enumerate(merges)}


def split_in_two(token: Any, ids: Mapping[Any, int]) -> list[tuple[int, int]]:
    """Lists the ways to cut a token (text or bytes) into two tokens, as pairs of ids, ascending.

    Formats that store no merges (tiktoken) derive them from these pairs.

    Example:
        >>> split_in_two("abc", {"a": 0, "bc": 1, "ab": 2, "c": 3})
        [(0, 1), (2, 3)]
    """
    cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
    return sorted((ids[a], ids[b]) for a, b in cuts if a in ids and b in ids)
