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
    does not depend on the order of the words. The id of a token is its index in the vocabulary.

    Args:
        word_counts: word -> its count, >= 1; every character must be in `vocab`.
        vocab: the initial tokens in the order of their ids: special tokens and the alphabet.
        vocab_size: largest number of tokens.
        min_frequency: smallest count of a pair that is merged, >= 1.
        forbidden: strings that no merge may produce (special tokens, which plain text must not become).

    Returns:
        (vocab, merges): two new lists: the tokens in the order of their ids, and the pairs in the order of
        merging. There are fewer than `vocab_size` tokens if no pair is left.

    Steps:
        1. Write each word as the tuple of its characters.
        2. Count neighbouring pairs over all words with `count_pairs`; remove those whose joined string is
            forbidden.
        3. Take the pair with the highest count, on a tie the smaller ids; stop if there is none, or if its
            count is below `min_frequency`.
        4. Merge it in every word with `merge_pair`, and append it to the merges; the joined string is
            appended to the vocabulary, unless it is there already.
        5. Repeat from 2 while the vocabulary has fewer than `vocab_size` tokens.

    Edge cases: "aaa" has the pair (a, a) twice, and merging gives (aa, a). A joined string that `vocab` has
    from the start keeps its id, and its pair becomes a merge. No pair is merged twice: a merge removes all
    its occurrences, and none can appear later. A vocabulary that is full from the start learns nothing.

    Example:
        Three times "ab" beats twice "bc":

        >>> learn_merges({"abc": 2, "ab": 1}, ["a", "b", "c"], 5)
        (['a', 'b', 'c', 'ab', 'abc'], [('a', 'b'), ('ab', 'c')])

    Source: Sennrich et al. 2016, algorithm 1. Differs from it: ties are broken as in Hugging Face tokenizers.
    """
    vocab, merges = list(vocab), []
    ids = {token: i for i, token in enumerate(vocab)}
    # 1. Words as tuples of characters: word -> (symbol, symbol, ...).
    words = {word: tuple(word) for word in word_counts}
    while len(vocab) < vocab_size:
        # 2. Count pairs, without the forbidden ones.
        counts = count_pairs(words, word_counts)
        for pair in [p for p in counts if p[0] + p[1] in forbidden]:
            del counts[pair]
        # 3. The pair of the highest count, on a tie of the smaller ids; stop below min_frequency.
        best = max(counts, key=lambda pair: (counts[pair], -ids[pair[0]], -ids[pair[1]]), default=None)
        if best is None or counts[best] < min_frequency:
            break
        # 4. Merge it in every word; the joined string is a new token, unless it is one.
        words = {word: merge_pair(symbols, best) for word, symbols in words.items()}
        merges.append(best)
        token = best[0] + best[1]
        if token not in ids:
            ids[token] = len(vocab)
            vocab.append(token)
        # 5. Repeat from 2 until the vocabulary is full.
    return vocab, merges


def count_pairs(words: Mapping[str, tuple[str, ...]], word_counts: Mapping[str, int]) -> Counter[Pair]:
    """Counts pairs of neighbouring symbols over all words, weighted by the words' counts.

    Training merges the most frequent pair. A text repeats its words, so it is enough to go through each
    different word once, and to count its pairs as often as the word occurs.

        counts[a, b] = Σ_word word_counts[word] · #{i: s_i = a and s_(i+1) = b},     s = words[word]

    Args:
        words: word -> its symbols, n >= 0 of them.
        word_counts: word -> its count, >= 1; has every word of `words`.

    Returns:
        Counter: (left symbol, right symbol) -> count; only pairs that occur.

    Steps:
        1. Start with an empty Counter, and go through the words.
        2. For each of the n - 1 pairs of neighbours, add the count of the word to the count of the pair.

    Edge cases: a word of one symbol has no pair; "aaa" has the pair (a, a) twice, although the two overlap.

    Example:
        >>> count_pairs({"aab": ("a", "a", "b")}, {"aab": 3})
        Counter({('a', 'a'): 3, ('a', 'b'): 3})

    Source: Sennrich et al. 2016, algorithm 1, `get_stats`.
    """
    # 1. All words, with an empty Counter: (left, right) -> count.
    counts: Counter[Pair] = Counter()
    for word, symbols in words.items():
        # 2. The n - 1 pairs of neighbours, each as often as the word occurs.
        for pair in pairwise(symbols):
            counts[pair] += word_counts[word]
    return counts


def merge_pair(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Joins every occurrence of `pair`, from left to right.

    One merge of training, applied to one word. Occurrences may overlap ("a a a"); the order from left to
    right decides which of them are joined.

    Args:
        symbols: n symbols of a word.
        pair: (left, right).

    Returns:
        m symbols, m <= n; their concatenation is that of `symbols`.

    Steps:
        1. Start at the first symbol, with an empty result.
        2. If this symbol and the next are the pair, append their concatenation, and go on after both.
        3. Otherwise append this symbol, and go on with the next one.

    Edge cases: a symbol that was joined is not joined again in the same pass: "a a a a" becomes "aa aa".

    Example:
        >>> merge_pair(("a", "a", "a", "b"), ("a", "a"))
        ('aa', 'a', 'b')

    Source: Sennrich et al. 2016, algorithm 1, `merge_vocab`.
    """
    # 1. From the first symbol, with an empty result.
    result: list[str] = []
    i = 0
    while i < len(symbols):
        if symbols[i : i + 2] == pair:
            # 2. The pair: append its concatenation, go on after both.
            result.append(pair[0] + pair[1])
            i += 2
        else:
            # 3. Another symbol: append it, go on with the next.
            result.append(symbols[i])
            i += 1
    return tuple(result)


def apply_merges(word: str, ranks: Mapping[Pair, int]) -> tuple[str, ...]:
    """Encodes one word: merges the neighbours of lowest rank until no pair of neighbours is a merge.

    Encoding repeats training: a merge that was learned earlier is applied earlier, so a word is cut as it
    was cut in the training text. At each turn one pair is joined, so a word of n characters takes at most
    n - 1 turns.

    Args:
        word: one word, as cut by the split pattern.
        ranks: pair -> its index in the list of merges, from `rank_merges(merges)`.

    Returns:
        The word's tokens, whose concatenation is the word.

    Steps:
        1. Write the word as the list of its n characters.
        2. Among the neighbouring pairs that are merges, find the one learned first, on a tie the leftmost;
            if there is none, return the symbols as a tuple.
        3. Join these two, and repeat from 2.

    Edge cases: an empty word has no tokens; a character that is in no merge is a token of its own.

    Example:
        "b"+"c" was learned first, so "abc" becomes a|bc, and a|bc is no merge:

        >>> apply_merges("abcab", rank_merges([("b", "c"), ("a", "b")]))
        ('a', 'bc', 'ab')

    Source: Sennrich et al. 2016, section 3.2.
    """
    # 1. A list of n characters.
    symbols = list(word)
    while True:
        # 2. The leftmost pair of lowest rank among the n - 1 neighbours; without one the word is done.
        pairs = list(pairwise(symbols))
        left = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf), default=None)
        if left is None or pairs[left] not in ranks:
            return tuple(symbols)
        # 3. Join the two: one symbol fewer. Repeat from 2.
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
