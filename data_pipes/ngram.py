"""Hash words and n-grams of words, so that NumPy can count repetition.

Shape letters: N words, n words in an n-gram.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

_PRIME = 0x100000001B3
_WORD = re.compile(r"\w+|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Splits a text into words and single punctuation marks, without white space.

    Example:
        >>> split_words("x = f(a_1)")
        ['x', '=', 'f', '(', 'a_1', ')']
    """
    return _WORD.findall(text)


def hash_words(words: list[str]) -> np.ndarray:
    """Hashes each word to [N] uint64, the same in every process (unlike Python's own hash).

    Example:
        >>> a, b, c = hash_words(["to", "be", "to"]).tolist()
        >>> a == c, a == b
        (True, False)
    """
    return mix(np.array([zlib.crc32(word.encode("utf8", "replace")) for word in words], np.uint64))


def hash_ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hashes each n-gram: a polynomial in the words' hashes, mixed.

    Repetition and overlap of texts are counted on n-grams of words. As one number each they take n products
    for all of a text, and NumPy sorts and counts them.

        ngram[i] = mix(Σ_j hashes[i + j] P^(n-1-j)),  j = 0 ... n-1,  mod 2^64,     P = `_PRIME`

    Args:
        hashes: [N] uint64, from `hash_words`.
        n: words in an n-gram, >= 1.

    Returns:
        [N - n + 1] uint64, empty if there are fewer than n words. Equal n-grams have equal hashes; two
        different ones collide with probability 2**-64 (2**-32 for n = 1).

    Steps:
        1. Begin with 0 for each n-gram: [N - n + 1] uint64, or [0].
        2. For each place j of a word: multiply by P and add the hash of the word at j of each n-gram
           (Horner's rule); uint64 wraps around, which is the modulus.
        3. Scramble the sums with `mix`.

    Edge cases: n = 1 gives mix(hashes).

    Example:
        "a b a b" has the bigrams ab, ba, ab:

        >>> one, two, three = hash_ngrams(hash_words(list("abab")), 2).tolist()
        >>> one == three, one == two
        (True, False)

    Source: Karp and Rabin, "Efficient Randomized Pattern-Matching Algorithms", 1987. Differs from it: NumPy
    computes all n-grams at once, so the hash does not roll.
    """
    # 1. Sums [N - n + 1].
    count = max(len(hashes) - n + 1, 0)
    ngrams = np.zeros(count, np.uint64)
    # 2. Horner's rule, one word at a time.
    for j in range(n):
        ngrams = ngrams * np.uint64(_PRIME) + hashes[j : j + count]
    # 3. Mixed.
    return mix(ngrams)


def mix(x: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit numbers bijectively: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
