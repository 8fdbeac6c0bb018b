"""Drop duplicates: exact ones by a hash, near ones by MinHash; the first document of a group is kept.

Shape letters: K hash functions. A shingle is an n-gram of words.

Broder, "On the Resemblance and Containment of Documents", 1997 (MinHash); Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", 2014, section 3.4 (banding).
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import NamedTuple

import numpy as np

from data_pipes.filter import Fold
from data_pipes.ngram import hash_ngrams, hash_words, mix, split_words
from data_pipes.types import Document

_BLOCK = 1024


class MinHashIndex(NamedTuple):
    """Memory of `near_duplicates`: an index of the signatures of the documents kept so far.

    Fields:
        names: names of the documents.
        signatures: signatures of the documents, [K] uint32 each.
        buckets: one dictionary per band: the bytes of the band -> indices of the documents that have them.
    """

    names: list[str]
    signatures: list[np.ndarray]
    buckets: list[dict[bytes, list[int]]]


def exact_duplicates() -> Fold:
    """Drops documents with the same text as an earlier one; a hash of 32 bytes per document is stored.

    Example:
        >>> from data_pipes.filter import apply_filters
        >>> documents, drops = [Document("x", "a"), Document("y", "b"), Document("x", "c")], []
        >>> [d.name for d in apply_filters(documents, [exact_duplicates()], on_drop=drops.append)]
        ['a', 'b']
        >>> drops[0].reason
        'exact duplicate: the same text as a'
    """
    return Fold(init=dict, prepare=_hash_text, step=_check_exact)


def near_duplicates(similarity: float = 0.8, *, shingle: int = 5, bands: int = 32, rows: int = 4) -> Fold:
    """Drops near copies of an earlier document, such as those with another date, licence or version.

    Near copies waste tokens, are memorized, and leak from training into held-out text. Comparing all
    pairs is quadratic; MinHash compares only those that agree somewhere in a short signature.

        J(A, B) = |A and B| / |A or B|  over the sets of shingles
        P(min_k A = min_k B) = J,  so the share of equal entries in two signatures estimates J
        P(compared) = 1 - (1 - J**rows)**bands,  which rises from 0 to 1 around J = (1/bands)**(1/rows)

    Args:
        similarity: smallest J of a near duplicate, in (0, 1]; J is estimated to within about 0.04.
        shingle: words in a shingle.
        bands: number of bands that the signature is cut into, K = bands · rows; a pair is compared if it
            agrees in at least one complete band. With 32 bands of 4 rows, all but one in 10**7 pairs at
            J = 0.8 are compared.
        rows: entries of the signature in a band.

    Returns:
        A Fold that stores about 4 KiB for each document kept.

    Raises:
        ValueError: if similarity is outside (0, 1], or a count is below 1.

    Edge cases: a document of fewer words than a shingle is one shingle; one without words is kept.

    Example:
        200 words have 196 shingles; one more word in front adds one: J = 196/197. In reverse order the text
        shares none.

        >>> from data_pipes.filter import apply_filters
        >>> words, drops = [f"word{i}" for i in range(200)], []
        >>> texts = {"a": words, "b": ["New", *words], "c": words[::-1]}
        >>> documents = [Document(" ".join(text), name) for name, text in texts.items()]
        >>> [d.name for d in apply_filters(documents, [near_duplicates()], on_drop=drops.append)]
        ['a', 'c']
        >>> drops[0].reason
        'near duplicate: 1.00 like a, at least 0.8'

    Source: Broder 1997. Differs from it: one hash of each shingle, sent through K multiply-shift functions.
    """
    if not 0 < similarity <= 1 or min(shingle, bands, rows) < 1:
        raise ValueError(
            f"near_duplicates: similarity must be in (0, 1] and shingle, bands, rows at least 1, "
            f"got {similarity}, {shingle}, {bands}, {rows}"
        )
    return Fold(
        init=partial(_empty_memory, bands),
        prepare=partial(_sign, shingle=shingle, size=bands * rows),
        step=partial(_check_near, similarity=similarity),
    )


def signature(text: str, *, shingle: int = 5, size: int = 128) -> np.ndarray | None:
    """Computes a MinHash signature: for each of K hash functions the smallest value over the text's shingles.

    The minimum over the union of two sets lies in both sets with probability J, their Jaccard similarity. So
    two texts of any length are compared by K numbers.

        signature[k] = min over shingles x of (a_k h(x) + b_k) mod 2**32
        P(signature_A[k] = signature_B[k]) = J(A, B) = |A and B| / |A or B|

    with K = size.

    Args:
        text: any text.
        shingle: words in a shingle.
        size: K.

    Returns:
        [K] uint32, or None for a text without words. The share of equal entries in two signatures estimates
        the Jaccard similarity of the texts.

    Steps:
        1. Hash the shingles h(x): `split_words`, `hash_words`, then `hash_ngrams` of `shingle` words, or of
           all words if there are fewer. Equal ones count once (as uint64); then keep their low 32 bits. A
           text without words has no signature.
        2. Hash function k is h -> (a_k h + b_k) mod 2**32 with a_k odd: a bijection, so it acts as a random
           permutation of the hashes. The low 32 bits of `mix` of 0, 1, ..., 2 K - 1 (uint64) are first the K
           numbers a, with their lowest bit set, then the K numbers b.
        3. Take the minimum of each hash function over all shingles in uint32, which wraps around: [K, block]
           at a time, with `_BLOCK` shingles in a block, so that memory is bounded.

    Edge cases: a text without words gives None; one of fewer words than a shingle is one shingle.

    Example:
        Two of the four words of both texts together are in both, J = 1/2:

        >>> one, two = (signature(text, shingle=1, size=1000) for text in ("a b c", "b c d"))
        >>> bool(abs((one == two).mean() - 0.5) < 0.05)
        True

    Source: Broder 1997. Differs from it: multiply-shift functions for random permutations.
    """
    # 1. Distinct shingles, uint32.
    words = hash_words(split_words(text))
    if not len(words):
        return None
    shingles = np.unique(hash_ngrams(words, min(shingle, len(words)))).astype(np.uint32)
    # 2. Hash functions: a and b [K, 1].
    coefficients = mix(np.arange(2 * size, dtype=np.uint64)).astype(np.uint32)[:, None]
    a, b = coefficients[:size] | np.uint32(1), coefficients[size:]
    # 3. Minima [K].
    lowest = np.full(size, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(shingles), _BLOCK):
        lowest = np.minimum(lowest, (a * shingles[None, start : start + _BLOCK] + b).min(axis=1))
    return lowest


def _hash_text(document: Document) -> bytes:
    """sha256 of a document's text."""
    return hashlib.sha256(document.text.encode("utf8", "surrogatepass")).digest()


def _check_exact(seen: dict[bytes, str], name: str, digest: bytes) -> str | None:
    """Reports a text that was seen before; stores the hash of a new one."""
    if digest in seen:
        return f"exact duplicate: the same text as {seen[digest]}"
    seen[digest] = name
    return None


def _sign(document: Document, *, shingle: int, size: int) -> np.ndarray | None:
    """`signature` of a document's text."""
    return signature(document.text, shingle=shingle, size=size)


def _empty_memory(bands: int) -> MinHashIndex:
    """Memory without documents: one empty dictionary per band."""
    return MinHashIndex([], [], [{} for _ in range(bands)])


def _check_near(seen: MinHashIndex, name: str, own: np.ndarray | None, *, similarity: float) -> str | None:
    """Compares a document with the stored ones that share a bucket, and stores it if it is kept."""
    if own is None:
        return None
    keys = [part.tobytes() for part in own.reshape(len(seen.buckets), -1)]
    candidates: set[int] = set()
    for bucket, key in zip(seen.buckets, keys, strict=True):
        candidates.update(bucket.get(key, ()))
    if candidates:
        others = sorted(candidates)
        estimates = (np.stack([seen.signatures[other] for other in others]) == own).mean(axis=1)
        if estimates.max() >= similarity:
            nearest = seen.names[others[int(estimates.argmax())]]
            return f"near duplicate: {estimates.max():.2f} like {nearest}, at least {similarity}"
    _remember(seen, name, own, keys)
    return None


def _remember(seen: MinHashIndex, name: str, own: np.ndarray, keys: list[bytes]) -> None:
    """Adds a kept document to the bucket of each of its bands."""
    for bucket, key in zip(seen.buckets, keys, strict=True):
        bucket.setdefault(key, []).append(len(seen.names))
    seen.names.append(name)
    seen.signatures.append(own)
