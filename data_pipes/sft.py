"""The fine-tuning pipe: conversations, packed into rows without cutting them, as a sequence of batches.

Shape letters: B rows in a batch, R rows of the table, T tokens in a row, E examples, n tokens of one example.

Ding et al., "Fewer Truncations Improve Language Modeling", 2024, arXiv 2404.10830 (best-fit packing).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from data_pipes.chat.chat import Encoded
from data_pipes.pack import best_fit_decreasing
from data_pipes.ragged import Ragged, concatenate, write_example
from data_pipes.table import TablePipe, table_pipe
from pure.loss.cross_entropy import IGNORE


class PackedExamples(NamedTuple):
    """Examples, and their assignment to rows.

    Fields:
        examples: all examples.
        order: [E] int64, indices of examples, row by row.
        ends: [R] int64: row r holds the examples order[ends[r - 1] : ends[r]], row 0 order[: ends[0]].
    """

    examples: Ragged
    order: np.ndarray
    ends: np.ndarray


def sft_pipe(
    examples: Sequence[Encoded],
    *,
    batch_size: int,
    length: int,
    key: Any,
    epochs: int = 1,
    packing: bool = True,
    shuffle: bool = True,
) -> TablePipe:
    """Builds the pipe: packs examples into rows, which are reshuffled each epoch.

    A batch with one conversation per row is mostly padding, as most conversations are short. Packing puts
    several into a row, and segment ids mask attention between them, so that the loss is the same for a
    fraction of the computation.

    Args:
        examples: from `data_pipes.chat.chat.encode_chats`. An example of n tokens takes n - 1 positions:
            inputs tokens[:-1], labels tokens[1:] where those are trained on. An example that fits into a row
            is never cut.
        batch_size: B, rows.
        length: T, tokens in a row. Examples of more than T + 1 tokens are truncated on the right.
        key: a seed or a key [2] uint32; None only with shuffle=False.
        epochs: passes through the data; `len(pipe)` covers all of them.
        packing: False puts one example into each row.
        shuffle: False keeps the rows in order: the order of the examples, or with packing that of
            `best_fit_decreasing`.

    Returns:
        A sequence of ceil(epochs R / B) batches, see `take`; the last one may end with padding rows. The
        pipe's `truncated` counts the examples that were truncated, `dropped` those without a token to train
        on (after truncation).

    Steps:
        1. Truncate examples that are too long; drop those without a token to train on.
        2. Pack the others into rows.

    Raises:
        ValueError: if no example is left, or a size is below 1.
        TypeError: if the key is missing.

    Example:
        Examples of 3 and 2 tokens take 2 + 1 positions of a row:

        >>> examples = [Encoded(np.array([5, 6, 7]), np.array([False, False, True])),
        ...             Encoded(np.array([8, 9]), np.array([False, True]))]
        >>> batch = sft_pipe(examples, batch_size=1, length=4, key=0)[0]
        >>> batch["tokens"].tolist(), batch["labels"].tolist(), batch["segment_ids"].tolist()
        ([[5, 6, 8, 0]], [[-100, 7, 9, -100]], [[0, 0, 1, 2]])
    """
    # 1. Truncate, and drop.
    limit = max(length, 0) + 1
    fitted = [Encoded(tokens[:limit], trained[:limit]) for tokens, trained in examples]
    kept = [example for example in fitted if example.trained[1:].any()]
    truncated = sum(len(example.tokens) > length + 1 for example in examples)
    stored = concatenate(kept, "sft_pipe")
    # 2. Pack.
    sizes = np.diff(stored.starts) - 1
    bins = [[example] for example in range(len(kept))]
    if packing and kept:
        bins = best_fit_decreasing(sizes, length)
    table = PackedExamples(
        stored,
        np.fromiter((example for row in bins for example in row), np.int64, len(kept)),
        np.fromiter(map(len, bins), np.int64, len(bins)).cumsum(),
    )
    return table_pipe(
        table,
        partial(take, length=length),
        rows=len(bins),
        batch_size=batch_size,
        key=key,
        epochs=epochs,
        shuffle=shuffle,
        about={"pipe": "sft", "length": length, "packing": packing},
        truncated=truncated,
        dropped=len(fitted) - len(kept),
    )


def take(table: PackedExamples, rows: np.ndarray, *, length: int) -> dict[str, np.ndarray]:
    """Writes rows of the table into a padded batch.

    Segment ids keep the examples of a row apart in attention, and positions begin again with each, so that a
    packed row has the loss of its examples alone.

        row:  x_0[0] ... x_0[n_0 - 2]   x_1[0] ... x_1[n_1 - 2]   ...   0 ... 0
        segment j has n_j - 1 positions, and begins at position Σ_{i<j} (n_i - 1)

    with x_0, x_1, ... the tokens of the row's examples, n_0, n_1, ... their numbers.

    Args:
        table: examples and their rows.
        rows: [B] int64, -1 for a row of padding.
        length: T.

    Returns:
        "tokens" [B, T] int64; "labels" [B, T] int64, the token after each, -100 where it is not trained on;
        "segment_ids" [B, T] int64, examples numbered from 0 in each row, padding as one more segment;
        "positions" [B, T] int64, from 0 in each segment; "row" [B] int64, the row's number, -1 for padding.
        Padding has token 0 and label -100.

    Steps:
        1. Begin with tokens, segment ids and positions 0 and labels `IGNORE`, [B, T].
        2. List the examples of each row r, in order: order[ends[r-1] : ends[r]], from 0 on for row 0, none
           for a row of padding.
        3. Write each with `write_example` to the first free position of the row's tokens and labels, which
           also says how many positions it takes. Its segment id is its place in the row, 0, 1, ...; its
           positions are 0, 1, ...
        4. All positions that remain are one more segment, with positions 0, 1, ...
        5. Return the arrays, and a copy of `rows` as "row".

    Edge cases: a row of padding is one segment, numbered 0, with positions 0 ... T-1.

    Example:
        Examples of 3 and 2 tokens take 2 + 1 positions of a row, and one is left:

        >>> stored = concatenate(
        ...     [
        ...         Encoded(np.array([5, 6, 7]), np.array([False, False, True])),
        ...         Encoded(np.array([8, 9]), np.array([False, True])),
        ...     ],
        ...     "f",
        ... )
        >>> batch = take(PackedExamples(stored, np.array([0, 1]), np.array([2])), np.array([0]), length=4)
        >>> batch["labels"].tolist(), batch["segment_ids"].tolist(), batch["positions"].tolist()
        ([[-100, 7, 9, -100]], [[0, 0, 1, 2]], [[0, 1, 0, 0]])

    Source: Krell et al., "Efficient Sequence Packing without Cross-contamination", 2021.
    """
    # 1. Rows of padding [B, T].
    shape = (len(rows), length)
    tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    segment_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for batch_position, row in enumerate(rows.tolist()):
        # 2. Examples of the row.
        first = int(table.ends[row - 1]) if row > 0 else 0
        members = table.order[first : table.ends[row]].tolist() if row >= 0 else []
        # 3. One segment for each.
        start = 0
        for segment, example in enumerate(members):
            free = (batch_position, slice(start, None))
            end = start + write_example(table.examples, example, tokens[free], labels[free])
            segment_ids[batch_position, start:end] = segment
            positions[batch_position, start:end] = np.arange(end - start)
            start = end
        # 4. The padding as one more.
        segment_ids[batch_position, start:] = len(members)
        positions[batch_position, start:] = np.arange(length - start)
    # 5. The batch.
    return {
        "tokens": tokens,
        "labels": labels,
        "segment_ids": segment_ids,
        "positions": positions,
        "row": rows.copy(),
    }


def fullness(pipe: TablePipe) -> float:
    """Returns the share of positions that are not padding, in (0, 1]; packing raises it.

    Example:
        >>> examples = [Encoded(np.array([5, 6, 7]), np.array([False, False, True]))] * 3
        >>> pipe = sft_pipe(examples, batch_size=1, length=4, key=0)
        >>> fullness(pipe), fullness(sft_pipe(examples, batch_size=1, length=4, key=0, packing=False))
        (0.75, 0.5)
    """
    filled = len(pipe.table.examples.tokens) - len(pipe.table.order)
    return filled / (pipe.rows * pipe.about["length"])
