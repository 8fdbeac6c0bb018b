"""The model as the engine runs it: params in their layout, the steps of each tile, and the sizes of tiles.

Shape letters: R slots of a tile, S positions of a tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from data_pipes.tokenizer import stream, vocabulary_size
from data_pipes.tokenizer.stream import Stream
from pure import tree
from pure.generation.slots import Slots, decode_slots, empty_slots, give_away, lengthen_cache
from pure.generation.stepper import prefill
from pure.transform.jit import jit
from pure.types import Model, Tree
from stages.models.language_model import Pretrained
from stages.serve.tile import Tile, make_row_controls

SHORTEST = 128
"""Positions of the shortest tile."""

BASE = 8
"""Slots of a tile. Other numbers are used only where they give the same bits as this one."""

SHAPES = (1, 4, BASE, 16)
"""Numbers of slots that are tried, besides the largest number of rows."""

COMPILED_SHAPES = (BASE,)
"""The same for compiled steps, each of which takes the compiler half a minute."""


class Machine(NamedTuple):
    """Everything that the rows of all requests share.

    Fields:
        model, params: the model; params are in the layout of `prefill` and `decode`.
        stream: the tokenizer's streaming decoder.
        vocabulary: ids at or above it are never sampled; None allows all.
        most_rows: largest number of rows at once.
        base: R of the tiles whose bits count, at most `most_rows`.
        shapes: R that a tile may have if `stages.serve.shapes` finds the bits of `base`; ascending.
        lengths: S of the tiles, ascending; the last is the longest prompt and completion together.
        prefill: (cache, params, tokens [G, T]) -> cache.
        decode: (R, S) -> the step of a tile, (slots, params) -> slots; it overwrites the cache of the slots.
        dtype: of params and caches.
        device: of params and caches.
        trials: results of `stages.serve.shapes`, filled as shapes are tried.
    """

    model: Model
    params: Tree
    stream: Stream
    vocabulary: int | None
    most_rows: int
    base: int
    shapes: tuple[int, ...]
    lengths: tuple[int, ...]
    prefill: Callable[..., Tree]
    decode: Mapping[tuple[int, int], Callable[[Slots, Tree], Slots]]
    dtype: torch.dtype
    device: torch.device
    trials: Trials


class Trials(NamedTuple):
    """Shapes that were tried.

    Fields:
        logits: S -> logits of the base's slots [R, V].
        agreeing: (R, S) -> the shape gives the base's bits, in every slot.
        groups: (G, tokens of a chunk, S) -> prefill of a group gives the bits of one row's.
    """

    logits: dict[int, Tensor]
    agreeing: dict[tuple[int, int], bool]
    groups: dict[tuple[int, int, int], bool]


def make_machine(
    base: Pretrained, *, max_rows: int, max_length: int, compile: bool = False, backend: str = "inductor"
) -> Machine:
    """Prepare a model for the engine.

    Args:
        base: model, params and tokenizer; the params stay on their device.
        max_rows: largest number of rows at once.
        max_length: longest prompt and completion together, at most the model's context.
        compile: compile the step, once for each shape of a tile, when it is first called; there are fewer
            shapes then.
        backend: as in `pure.transform.jit.jit`.

    Returns:
        Machine.
    """
    model = base.model
    leaf = next(x for x in tree.leaves(base.params) if x.is_floating_point())
    vocabulary = vocabulary_size(base.tokenizer)
    tried = COMPILED_SHAPES if compile else SHAPES
    shapes = (*(rows for rows in tried if rows < max_rows), max_rows)
    lengths = tile_lengths(max_length, factor=4 if compile else 2)
    step = partial(decode_slots, model=model)
    params = base.params
    decode = dict.fromkeys(itertools.product(shapes, lengths), partial(_decode_in_place, step))
    if compile:
        with torch.no_grad():
            params = model.prepare(params, rows=max_rows)
        decode = {shape: jit(step, donate=True, checked=False, backend=backend) for shape in decode}
    return Machine(
        model=model,
        params=params,
        stream=stream(base.tokenizer, skip_special=True),
        vocabulary=vocabulary if vocabulary < model.config.vocab_size else None,
        most_rows=max_rows,
        base=min(BASE, max_rows),
        shapes=shapes,
        lengths=lengths,
        prefill=partial(prefill, model=model),
        decode=MappingProxyType(decode),
        dtype=leaf.dtype,
        device=leaf.device,
        trials=Trials({}, {}, {}),
    )


def _decode_in_place(step: Callable[[Slots, Tree], Slots], slots: Slots, params: Tree) -> Slots:
    """Take a step that writes into the cache of the slots, which are the engine's own."""
    return step(give_away(slots), params)


def tile_lengths(max_length: int, *, factor: int = 2) -> tuple[int, ...]:
    """Return the numbers of positions of the tiles: 128, times `factor` until all fit.

    Example:
        >>> tile_lengths(1000), tile_lengths(100)
        ((128, 256, 512, 1000), (100,))
    """
    lengths, length = list[int](), SHORTEST
    while length < max_length:
        lengths.append(length)
        length *= factor
    return (*lengths, max_length)


def smallest_of(sizes: Sequence[int], count: int) -> int:
    """Return the smallest of ascending sizes that is at least `count`.

    Example:
        >>> smallest_of((128, 256), 129)
        256
    """
    return next(size for size in sizes if size >= count)


def new_tile(machine: Machine, rows: int, length: int) -> Tile:
    """Allocate a tile without rows."""
    slots = empty_slots(machine.model, rows, length, machine.dtype, machine.device)
    free = (None,) * rows
    return Tile(length, slots, free, make_row_controls(free, machine.vocabulary, machine.device))


def lengthen(machine: Machine, cache: Tree, length: int) -> Tree:
    """Copy the cache of one row into one with more positions."""
    return lengthen_cache(cache, machine.model.cache(1, length, machine.dtype, "meta"))
