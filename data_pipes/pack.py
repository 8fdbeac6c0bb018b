"""Make rows of equal length: cut one long stream into rows, or pack uncut examples into bins.

Pretraining concatenates all documents and cuts the stream (`row_count`, `cut_rows`, `segments`): no padding,
but documents are split. Fine-tuning packs uncut examples (`best_fit_decreasing`): no example is split, and
little padding remains.

Shape letters: T tokens in a row, D documents, R rows in one call, E examples.

Ding et al., "Fewer Truncations Improve Language Modeling", 2024, arXiv 2404.10830 (best-fit packing).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def row_count(tokens: int, length: int) -> int:
    """Counts the rows of a stream: each predicts `length` tokens, the last row the remaining ones.

        rows = ceil((tokens - 1) / length)        as the first token is never predicted

    Example:
        10 tokens make 9 predictions, so rows of 4, 4 and 1:

        >>> row_count(10, 4)
        3
    """
    return -(-(tokens - 1) // length)


def cut_rows(
    stream: np.ndarray, rows: np.ndarray, length: int, *, ignore: int = -100
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts rows out of a stream of tokens: inputs, and the token that follows each of them.

    Row r has tokens r T to r T + T - 1 as inputs and the token after each as label, so neighbouring rows
    share one token (the last label of a row is the first input of the next), and an epoch predicts each token
    except the first exactly once.

        tokens[r, t] = stream[r T + t],    labels[r, t] = stream[r T + t + 1]

    with r from rows, T = length.

    Args:
        stream: [N] integers, an array or a memory map; only the tokens of these rows are read.
        rows: [R] integers, row numbers; one outside [0, row_count) gives a row of padding (in a batch that is
            not full).
        length: T >= 1.
        ignore: label of positions without a target.

    Returns:
        (tokens [R, T] int64, labels [R, T] int64), new arrays; after the end of the stream token 0 and label
        `ignore`.

    Steps:
        1. Begin with rows of padding: tokens 0 and labels `ignore`, [R, T].
        2. Read the window of each row, stream[r T] to stream[r T + T]: T + 1 tokens, fewer at the end of the
           stream, none for a negative r.
        3. Write all of the window but its last token to the tokens, and all but its first to the labels, from
           the first column on.

    Edge cases: a window of one token predicts nothing, so its row is one of padding.

    Example:
        >>> tokens, labels = cut_rows(np.array([5, 6, 7, 8, 9, 3]), np.array([0, 1]), 4)
        >>> tokens.tolist(), labels.tolist()
        ([[5, 6, 7, 8], [9, 0, 0, 0]], [[6, 7, 8, 9], [3, -100, -100, -100]])
    """
    # 1. Rows of padding [R, T].
    tokens = np.zeros((len(rows), length), np.int64)
    labels = np.full((len(rows), length), ignore, np.int64)
    for out, row in enumerate(rows.tolist()):
        # 2. The window, at most T + 1 tokens.
        window = stream[row * length : row * length + length + 1] if row >= 0 else stream[:0]
        # 3. Inputs, and the tokens after them.
        predicted = max(len(window) - 1, 0)
        tokens[out, :predicted] = window[:predicted]
        labels[out, :predicted] = window[1 : predicted + 1]
    return tokens, labels


def segments(ends: np.ndarray, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes for each token of each row the number of its document, and its position in the document.

    With these, attention is masked to the document and rotary positions restart at each document, so that a
    row of several documents trains like separate rows.

        segment_ids[r, t] = d(r T + t) - d(r T),     d(i) = number of documents that end at or before i
        positions[r, t] = t - (the last column at or before t at which the row or a document begins)

    with r from rows, T = length.

    Args:
        ends: [D] ascending int64, an array or a memory map: the end of each document in the stream
            (exclusive).
        rows: [R] integers, row numbers; a negative one is a row of padding.
        length: T.

    Returns:
        (segment_ids [R, T + 1] int64, positions [R, T + 1] int64): documents numbered 0, 1, ... in each row,
        positions from 0 at the start of the row and of every document. Column T belongs to the last label.

    Steps:
        1. Compute the index of each token in the stream: r T + t, t = 0 ... T, [R, T + 1].
        2. Find the document of each token by binary search in `ends`: the number of ends at or before its
           index. In rows of padding all are document 0.
        3. Subtract the number of the first document in the row (an empty document leaves a gap in the
           numbers).
        4. Mark the columns at which the id rises; the last such column at or before each column, 0 if there
           is none, is a running maximum. The position is the distance to it.

    Edge cases: indices after the end of the stream count as one more document; a padding row is one document,
    numbered 0, with positions 0 ... T.

    Example:
        Documents of 3 and 4 tokens, and rows of 4 (the fifth column is that of the last label):

        >>> ids, positions = segments(np.array([3, 7]), np.array([0]), 4)
        >>> ids.tolist(), positions.tolist()
        ([[0, 0, 0, 1, 1]], [[0, 1, 2, 0, 1]])
    """
    # 1. Indices in the stream [R, T + 1].
    indices = np.maximum(rows, 0)[:, None] * length + np.arange(length + 1)
    # 2. Documents, 0 in padding.
    documents = np.searchsorted(ends, indices, side="right")
    documents[rows < 0] = 0
    # 3. Numbered within the row.
    ids = documents - documents[:, :1]
    # 4. Distance to the last start of a document [R, T + 1].
    columns = np.broadcast_to(np.arange(length + 1), ids.shape)
    starts = np.where(np.diff(ids, axis=1, prepend=0) > 0, columns, 0)
    return ids, columns - np.maximum.accumulate(starts, axis=1)


def best_fit_decreasing(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Packs examples into few bins: longest first, each into the fullest bin with enough room.

    Cutting examples at row ends loses context and starts rows in mid-sentence; padding each to the longest
    wastes most of the batch. Packing uncut examples avoids both. Bin packing is NP-hard; best-fit decreasing
    needs at most 11/9 of the optimal number of bins plus one (in practice 0.1% more).

        bin of an example of length L = argmin of the room over the bins with room >= L, else a new one

    Args:
        lengths: [E] integers in [0, capacity], tokens of each example.
        capacity: tokens a bin holds, >= 1.

    Returns:
        Bins in the order of opening, each a list of example indices, longest first; every example is in
        exactly one. The result is deterministic: examples of equal length keep their order, and among bins
        with equal room the one that reached it last is filled.

    Steps:
        1. Convert the lengths with `_as_sizes`, and refuse impossible ones with `_check_sizes`.
        2. Sort the examples by length, longest first (stably), in groups of equal length.
        3. Keep a stack of bins for every amount of free room 0..capacity, and a bit set (one big integer) of
           the amounts that occur.
        4. For an example of length L, the lowest set bit at or above L is the tightest fit, and the bin on
           top of that stack is taken off it; if there is none, open a new bin.
        5. Add the example, and move the bin to the stack of its new room. Further examples of the same length
           are added while they fit: no other bin can be a tighter fit for them.

    Edge cases: no examples give no bins; examples of length 0 go into the fullest bin.

    Raises:
        ValueError: if capacity is below 1, or a length negative or above `capacity` (split it first,
            `split_long`).
        TypeError: if a length is not an integer.

    Example:
        6 + 4 and 5 + 3 + 2 fill two bins of ten:

        >>> best_fit_decreasing([2, 3, 4, 5, 6], 10)
        [[4, 2], [3, 1, 0]]

    Source: Ding et al. 2024, algorithm 1. Differs from it: the tightest fit is found in a bit set instead of
    a segment tree; the result is the same, and 64 amounts are searched per machine word.
    """
    # 1. Sizes [E].
    sizes = _as_sizes("best_fit_decreasing", lengths)
    _check_sizes(sizes, capacity)
    # 2. Longest first, in groups of equal length.
    order = np.argsort(-sizes, kind="stable")
    descending = sizes[order]
    starts = np.flatnonzero(np.diff(descending, prepend=-1))
    bins: list[list[int]] = []
    # 3. Bins by their free room, and the bit set of rooms that occur.
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    examples = order.tolist()
    ends = np.append(starts, len(order))[1:]
    for start, end, size in zip(starts.tolist(), ends.tolist(), descending[starts].tolist(), strict=True):
        while start < end:
            # 4. The tightest fit.
            fitting = rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
                chosen = by_room[room].pop()
                if not by_room[room]:
                    rooms ^= 1 << room
            else:
                room, chosen = capacity, len(bins)
                bins.append([])
            # 5. Add this example and the next ones of its group while they fit: the bin stays the tightest.
            count = min(end - start, room // size) if size else end - start
            bins[chosen] += examples[start : start + count]
            start += count
            room -= count * size
            by_room[room].append(chosen)
            rooms |= 1 << room
    return bins


def split_long(
    lengths: Sequence[int] | np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts examples longer than `capacity` into full pieces and a remainder; the others stay uncut.

    No token is lost; only the rare example that is longer than a row is cut, before the rest is packed.

        pieces of an example of n tokens: max(1, ceil(n / capacity))

    Args:
        lengths: [E] integers, tokens of each example, >= 0.
        capacity: largest length of a piece, tokens, >= 1.

    Returns:
        (example [P], start [P], length [P]) int64: piece p is tokens start[p] to start[p] + length[p]
        (exclusive) of example[p]; pieces are in the order of the examples. An example of length 0 has one
        empty piece.

    Steps:
        1. Refuse a capacity below 1 with `_check_capacity`, and convert the lengths with `_as_sizes`.
        2. Count the pieces of each example, [E].
        3. Repeat the index of each example once for each of its pieces, [P], and subtract from the number of
           a piece, 0 to P-1, that of the first piece of its example (a sum of the counts before it).
        4. That difference times capacity is the start; the length is what remains of the example, at most
           capacity.

    Edge cases: no examples give no pieces; a length that is a multiple of capacity has no remainder.

    Raises:
        ValueError: if capacity is below 1.
        TypeError: if a length is not an integer.

    Example:
        10 tokens make pieces of 4, 4 and 2:

        >>> [column.tolist() for column in split_long([3, 10], 4)]
        [[0, 1, 1, 1], [0, 0, 4, 8], [3, 4, 4, 2]]
    """
    # 1. Sizes [E].
    _check_capacity("split_long", capacity)
    sizes = _as_sizes("split_long", lengths)
    # 2. Pieces of each example [E].
    pieces = np.maximum(-(-sizes // capacity), 1)
    # 3. Example of each piece [P], and the first piece of that example [P].
    example = np.repeat(np.arange(len(sizes)), pieces)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    # 4. Starts and lengths [P].
    start = (np.arange(len(example)) - first) * capacity
    return example, start, np.minimum(sizes[example] - start, capacity)


def _check_sizes(sizes: np.ndarray, capacity: int) -> None:
    """Refuses sizes [E] that no bin holds."""
    _check_capacity("best_fit_decreasing", capacity)
    if sizes.size and not (sizes.min() >= 0 and sizes.max() <= capacity):
        raise ValueError(
            f"best_fit_decreasing: lengths must be in [0, {capacity}], got {sizes.min()} to {sizes.max()}; "
            f"cut the longer ones with split_long(lengths, {capacity}), or drop them"
        )


def _check_capacity(function: str, capacity: int) -> None:
    """Refuses a capacity without room for a token."""
    if capacity < 1:
        raise ValueError(f"{function}: capacity must be at least 1 token, got {capacity}")


def _as_sizes(function: str, lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Lengths as [E] int64."""
    sizes = np.asarray(lengths).reshape(-1)
    if sizes.size and sizes.dtype.kind not in "iu":
        raise TypeError(
            f"{function}: lengths must be integers (numbers of tokens), got {sizes.dtype}; pass len() of each"
        )
    return sizes.astype(np.int64)
