"""Merge words fast: `bpe.apply_merges` on ids instead of strings, for one word and for many.

`merge_word` uses a heap, so that its time is O(n log n) for a word of n symbols (a page of dashes, text
without spaces). `merge_words` takes many words as the rows of a matrix, which loses one column per iteration,
as every unfinished row merges one pair.

Shape letters: W words, L symbols of the longest word, M merges.

Sennrich et al. 2016, section 3.2. The tests compare both with `bpe.apply_merges`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

NO_MERGE = 1 << 62
"""Rank of a pair that is not a merge, above the rank of every merge."""

NOTHING = -1
"""Sentinel. As an id: a symbol that was merged away, or padding; as a neighbour's index: no neighbour."""


class Merges(NamedTuple):
    """Look-up tables of a tokenizer's merges.

    Fields:
        ranks: (id, id) -> rank, from 0; a repeated pair has its last rank.
        merged: [M] int64, rank -> id of the merged token.
        keys: [M + 1] int64, the pairs (a, b) as a·2³² + b, ascending; the last entry is a sentinel above all.
        key_ranks: [M + 1] int64, rank of each key; NO_MERGE for the sentinel.
    """

    ranks: dict[tuple[int, int], int]
    merged: np.ndarray
    keys: np.ndarray
    key_ranks: np.ndarray


def index_merges(pairs: Sequence[tuple[int, int]], merged: Sequence[int]) -> Merges:
    """Builds the look-up tables of merges.

    Args:
        pairs: [M] pairs of ids, in the order of merging.
        merged: [M] id of the token that each pair becomes.

    Returns:
        The tables.

    Example:
        >>> index_merges([(1, 2), (0, 1)], [3, 4]).ranks
        {(1, 2): 0, (0, 1): 1}
    """
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    keys = np.array([a << 32 | b for a, b in ranks] + [np.iinfo(np.int64).max], np.int64)
    order = np.argsort(keys)
    key_ranks = np.array([*ranks.values(), NO_MERGE], np.int64)
    return Merges(ranks, np.array(merged, np.int64), keys[order], key_ranks[order])


def merge_word(ids: Iterable[int], merges: Merges) -> list[int]:
    """Merges one word: the pair of lowest rank, on a tie the leftmost, until no neighbours are a merge.

    `bpe.apply_merges` searches all pairs for each merge: n² steps for a word of n symbols, minutes for a page
    without spaces. With a heap of pairs and a linked list of symbols it takes n log n steps. The symbols stay
    at their indices 0 .. n-1; a symbol that was merged away is NOTHING, and two lists hold the index of the
    next and of the previous symbol that is left (NOTHING at the ends).

    Args:
        ids: n ids of a word's characters or bytes, each >= 0.
        merges: from `index_merges`; `merges.ranks` gives a pair's rank, `merges.merged[rank]` its token.

    Returns:
        m ids of the word's tokens, m <= n, Python ints.

    Steps:
        1. Push every pair of neighbours that is a merge on a heap (`heapq`) of (rank, index of the left
            symbol).
        2. Pop the lowest. Skip it if it is out of date: the left symbol was merged away, or has no right
            neighbour, or the pair that stands there now has another rank.
        3. Merge: the token takes the index of the left symbol, the right symbol becomes NOTHING and is
            unlinked from both lists.
        4. Push the token's pairs with its two neighbours, where they are merges; repeat from 2 until the
            heap is empty.
        5. Return the symbols that are left.

    Edge cases: no ids, or one, are returned as they are. Pairs of one rank are merged from left to right:
    "aaa" becomes aa|a.

    Example:
        The pair (1, 2) has rank 0, so 1 is merged with 2 before 0 could be merged with 1.

        >>> merge_word([0, 1, 2, 0, 1], index_merges([(1, 2), (0, 1)], [3, 4]))
        [0, 3, 4]

    Source: Sennrich et al. 2016, section 3.2. Differs from it: the heap.
    """
    row, ranks, merged = list(ids), merges.ranks, merges.merged
    after, before = [*range(1, len(row)), NOTHING], [NOTHING, *range(len(row) - 1)]
    # 1. A heap of all pairs that are merges: (rank, index of the left symbol).
    heap = [(ranks[pair], i) for i, pair in enumerate(pairwise(row)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        # 2. The lowest, unless it is out of date.
        rank, i = heapq.heappop(heap)
        j = after[i]
        if row[i] == NOTHING or j == NOTHING or ranks.get((row[i], row[j])) != rank:
            continue
        # 3. The token at the left index; the right symbol is unlinked.
        row[i], row[j], after[i] = int(merged[rank]), NOTHING, after[j]
        if after[i] != NOTHING:
            before[after[i]] = i
        # 4. The token's pairs with its two neighbours.
        for left in (before[i], i):
            pair = (row[left], row[after[left]])
            if left != NOTHING and after[left] != NOTHING and pair in ranks:
                heapq.heappush(heap, (ranks[pair], left))
    # 5. The symbols that are left.
    return [i for i in row if i != NOTHING]


def merge_words(rows: np.ndarray, merges: Merges) -> list[tuple[np.ndarray, np.ndarray]]:
    """Merges many words at once, with the same result as `merge_word` for each.

    Args:
        rows: [W, L] int64 ids, one word per row, padded with NOTHING.
        merges: from `index_merges`.

    Returns:
        Groups (indices [w], tokens [w, l]): the tokens of the words at these indices of `rows`, padded with
        NOTHING.

    Steps:
        1. Find the rank of every pair of neighbours.
        2. In each row take the pair of lowest rank, on a tie the leftmost; rows without a merge are finished.
        3. Merge: the left symbol becomes the token, the right one is removed, so every row is one shorter.
        4. Update the ranks of the token's pairs with its two neighbours; repeat from 2.

    Example:
        >>> merge_words(np.array([[0, 1], [1, 1]]), index_merges([(0, 1)], [2]))
        [(array([1]), array([[1, 1]])), (array([0]), array([[2]]))]
    """
    result, word_indices, rows = [], np.arange(len(rows)), rows.copy()
    # 1. Ranks.
    ranks = _lookup_ranks(merges, rows[:, :-1], rows[:, 1:])
    while rows.shape[1] > 1:
        # 2. The lowest; finished rows.
        i = ranks.argmin(1)
        best = ranks[np.arange(len(rows)), i]
        unfinished = best < NO_MERGE
        if not unfinished.all():
            result.append((word_indices[~unfinished], rows[~unfinished]))
            word_indices, rows, ranks = word_indices[unfinished], rows[unfinished], ranks[unfinished]
            i, best = i[unfinished], best[unfinished]
        if not len(rows):
            return result
        # 3. Merge.
        indices = np.arange(len(rows))
        kept = np.ones(rows.shape, bool)
        kept[indices, i + 1] = False
        rows[indices, i] = merges.merged[best]
        rows, ranks = rows[kept].reshape(len(rows), -1), ranks[kept[:, 1:]].reshape(len(rows), -1)
        # 4. Around the token.
        for left in (i - 1, i):
            inside = np.flatnonzero((left >= 0) & (left < ranks.shape[1]))
            column = left[inside]
            ranks[inside, column] = _lookup_ranks(merges, rows[inside, column], rows[inside, column + 1])
    return [*result, (word_indices, rows)]


def _lookup_ranks(merges: Merges, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Ranks of pairs, same shape; NO_MERGE for a pair with NOTHING, whose key is negative."""
    keys = first << 32 | second
    indices = np.searchsorted(merges.keys, keys)
    return np.where(merges.keys[indices] == keys, merges.key_ranks[indices], NO_MERGE)
