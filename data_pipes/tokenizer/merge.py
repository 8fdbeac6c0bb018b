"""Merge words to ids quickly: the merges of `bpe.apply_merges` on numbers, for one word and for many.

One word uses a heap, so that time grows as n log n with its length (a page of dashes, text without spaces).
Many words are the rows of a matrix that loses one column an iteration, as every unfinished row merges one
pair.

Shape letters: W words, L symbols of the longest, M merges.

Sennrich et al. 2016, section 3.2. The tests compare both with `bpe.apply_merges`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

NO_MERGE = 1 << 62
"""Rank of a pair that is no merge: above every merge's."""

NOTHING = -1
"""As an id: merged away, or after the end of the word; as the index of a neighbour: none."""


class Merges(NamedTuple):
    """Look-up tables of a tokenizer's merges.

    Fields:
        ranks: (id, id) -> rank, from 0; a pair that is given twice has its last rank.
        merged: [M] rank -> id of the merged token.
        keys: [M + 1] int64, the pairs as a·2³² + b, ascending; the last is above all.
        key_ranks: [M + 1] int64, rank of each key; NO_MERGE for the last.
    """

    ranks: dict[tuple[int, int], int]
    merged: np.ndarray
    keys: np.ndarray
    key_ranks: np.ndarray


def index_merges(pairs: Sequence[tuple[int, int]], merged: Sequence[int]) -> Merges:
    """Makes the look-up tables of merges in order.

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
    """Merges the pair of lowest rank, the leftmost on a tie, until no neighbours are a merge.

    Args:
        ids: [n] ids of a word's characters or bytes.
        merges: from `index_merges`.

    Returns:
        [m] ids of the word's tokens, m <= n.

    Steps:
        1. Put every pair that is a merge on a heap of (rank, place).
        2. Pop the lowest; skip it if one of its two symbols was merged since.
        3. Merge: the left symbol becomes the token, the right one leaves the linked list.
        4. Put the pairs with the new neighbours on the heap; repeat from 2.

    Example:
        >>> merge_word([0, 1, 2, 0, 1], index_merges([(1, 2), (0, 1)], [3, 4]))
        [0, 3, 4]
    """
    row, ranks, merged = list(ids), merges.ranks, merges.merged
    after, before = [*range(1, len(row)), NOTHING], [NOTHING, *range(len(row) - 1)]
    # 1. All pairs.
    heap = [(ranks[pair], i) for i, pair in enumerate(pairwise(row)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        # 2. The lowest that is still valid.
        rank, i = heapq.heappop(heap)
        j = after[i]
        if row[i] == NOTHING or j == NOTHING or ranks.get((row[i], row[j])) != rank:
            continue
        # 3. Merge.
        row[i], row[j], after[i] = int(merged[rank]), NOTHING, after[j]
        if after[i] != NOTHING:
            before[after[i]] = i
        # 4. New neighbours.
        for left in (before[i], i):
            pair = (row[left], row[after[left]])
            if left != NOTHING and after[left] != NOTHING and pair in ranks:
                heapq.heappush(heap, (ranks[pair], left))
    return [i for i in row if i != NOTHING]


def merge_words(rows: np.ndarray, merges: Merges) -> list[tuple[np.ndarray, np.ndarray]]:
    """Merges many words at once, as `merge_word`.

    Args:
        rows: [W, L] int64 ids; NOTHING fills a row after its word's end.
        merges: from `index_merges`.

    Returns:
        Groups (indices [w], tokens [w, l]): the tokens of the words at these indices of `rows`, with NOTHING
            after the end.

    Steps:
        1. Find the rank of every pair of neighbours.
        2. In each row take the lowest, the leftmost on a tie; rows without a merge are finished.
        3. Merge: the left symbol becomes the token, the right one is removed. Every row is one shorter now.
        4. Find the ranks of the two pairs around the token; repeat from 2.

    Example:
        >>> merge_words(np.array([[0, 1], [1, 1]]), index_merges([(0, 1)], [2]))
        [(array([1]), array([[1, 1]])), (array([0]), array([[2]]))]
    """
    result, places, rows = [], np.arange(len(rows)), rows.copy()
    # 1. Ranks.
    ranks = _lookup_ranks(merges, rows[:, :-1], rows[:, 1:])
    while rows.shape[1] > 1:
        # 2. The lowest; finished rows.
        i = ranks.argmin(1)
        best = ranks[np.arange(len(rows)), i]
        unfinished = best < NO_MERGE
        if not unfinished.all():
            result.append((places[~unfinished], rows[~unfinished]))
            places, rows, ranks = places[unfinished], rows[unfinished], ranks[unfinished]
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
            at = left[inside]
            ranks[inside, at] = _lookup_ranks(merges, rows[inside, at], rows[inside, at + 1])
    return [*result, (places, rows)]


def _lookup_ranks(merges: Merges, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Ranks of the merges of neighbours, same shape; NO_MERGE for a pair with NOTHING (a negative key)."""
    keys = first << 32 | second
    places = np.searchsorted(merges.keys, keys)
    return np.where(merges.keys[places] == keys, merges.key_ranks[places], NO_MERGE)
