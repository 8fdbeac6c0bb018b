"""Prefill: fill the caches of rows with their prompts, in chunks of a few fixed sizes.

The sizes depend on a row's prompt only. A chunk is computed for one row alone, or for a group of rows at once
if `stages.serve.shapes` found the same bits. The engine lets other rows take a step between two chunks.

Shape letters: G rows of a group, S positions of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pure import tree
from pure.types import Tree
from stages.serve.machine import Machine

CHUNKS = (16, 64, 256)
"""Tokens of a chunk: the last one is padded to the smallest that holds it."""

GROUPS = (1, 2, 4, 8)
"""G. A group between two of them is padded with copies of its first row."""

LONGEST_IN_GROUP = 64
"""Longest chunk that is computed for a group, as the other rows wait for it."""


def chunk_sizes(count: int, length: int) -> tuple[int, ...]:
    """Return the sizes of the chunks of `count` tokens, padding included.

    Args:
        count: number of tokens, at most `length`.
        length: S; no chunk goes beyond it.

    Returns:
        Sizes, all of which but the last are 256.

    Example:
        >>> chunk_sizes(300, 512), chunk_sizes(300, 310), chunk_sizes(0, 128)
        ((256, 64), (256, 54), ())
    """
    sizes, start = list[int](), 0
    while start < count:
        size = next((size for size in CHUNKS if size >= count - start), CHUNKS[-1])
        sizes.append(min(size, length - start))
        start += sizes[-1]
    return tuple(sizes)


def prefill_by_chunks(
    machine: Machine, rows: Sequence[Sequence[int]], sizes: Sequence[int], length: int, count: int
) -> Iterator[tuple[int, Tree]]:
    """Fill the caches of rows whose chunks have the same sizes.

    Args:
        machine: the model.
        rows: ids of each row, all of its prompt but the last.
        sizes: `chunk_sizes` of each of them.
        length: S.
        count: G, at least the number of rows.

    Returns:
        An iterator over the chunks: (tokens computed, padding included, the caches so far, of G rows).
        Without chunks it gives (0, empty caches).
    """
    rows = [*rows, *[rows[0]] * (count - len(rows))]
    cache, start = machine.model.cache(count, length, machine.dtype, machine.device), 0
    if not sizes:
        yield 0, cache
    for size in sizes:
        chunks = [list(row[start : start + size]) for row in rows]
        ids = torch.tensor([chunk + [0] * (size - len(chunk)) for chunk in chunks], device=machine.device)
        filled = torch.tensor([start + len(chunk) for chunk in chunks], device=machine.device)
        cache = machine.prefill(cache, machine.params, ids)._replace(length=filled)
        start += size
        yield size * count, cache


def take_row(cache: Tree, row: int) -> Tree:
    """Return one row of caches, as a cache of one row, which shares their storage."""
    return tree.map(lambda x: x[row : row + 1], cache)
