"""Shapes of tiles that give the same bits, found by trying them on this machine.

Products of different shapes may add in a different order, and then differ in the last bits. The order depends
on the shapes, the threads and the processor only. So if numbers that look random come out equal to the last
bit in every logit, they were added in the same order, and so will be all others.

Shape letters: R slots of a tile, S positions of a tile, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pure import tree
from pure.generation.slots import Slots
from pure.types import Tree
from stages.serve.machine import Machine, new_tile
from stages.serve.prefill import CHUNKS, GROUPS, prefill_by_chunks, take_row


def fitting_shape(machine: Machine, length: int, count: int) -> int | None:
    """Return the smallest R >= count that gives the base's bits; tries those that were not tried before.

    Args:
        machine: its trials are filled.
        length: S.
        count: number of rows.

    Returns:
        R; None if there is none, for more rows than the base has slots.
    """
    for rows in machine.shapes:
        if rows >= count and (rows == machine.base or agrees(machine, length, rows)):
            return rows
    return None


def agrees(machine: Machine, length: int, rows: int) -> bool:
    """Tell whether tiles of a shape give the base's bits, whatever the slot; tries it if need be.

    Args:
        machine: its trials are filled.
        length: S.
        rows: R. For the base itself it tells whether its slots agree with each other.
    """
    logits, agreeing, _ = machine.trials
    if length not in logits:
        logits[length] = _try_tile(machine, length, list(range(machine.base)))
    if (rows, length) not in agreeing:
        ids = [slot % machine.base for slot in range(rows)]
        if rows <= machine.base:
            ids = [slot // 2 for slot in range(rows)]
        agreeing[rows, length] = torch.equal(_try_tile(machine, length, ids), logits[length][ids])
    return agreeing[rows, length]


def fitting_group(machine: Machine, length: int, size: int, count: int) -> int:
    """Return the smallest G >= count whose prefill gives the bits of one row's; tries it if need be.

    Args:
        machine: its trials are filled.
        length: S.
        size: tokens of the chunk.
        count: number of rows, at most the largest group.

    Returns:
        G; 1 if there is none: the rows are then computed one by one.
    """
    for group in GROUPS:
        if group >= count and (group == 1 or _group_agrees(machine, length, size, group)):
            return group
    return 1


def _group_agrees(machine: Machine, length: int, size: int, group: int) -> bool:
    """Tell whether a group's prefill gives the bits of one row's; tries it if need be."""
    agreeing = machine.trials.groups
    if (group, size, length) not in agreeing:
        vocabulary = machine.model.config.vocab_size
        rows = [[(31 * row + 7 * i) % vocabulary for i in range(size)] for row in range(group)]
        with torch.no_grad():
            together = _prefill_all(machine, rows, size, length)
            same = [
                all(map(torch.equal, tree.leaves(take_row(together, row)), tree.leaves(alone)))
                for row in range(group)
                for alone in [_prefill_all(machine, rows[row : row + 1], size, length)]
            ]
        agreeing[group, size, length] = all(same)
    return agreeing[group, size, length]


def try_shapes(machine: Machine, *, all_of_them: bool, say: Callable[[str], object]) -> bool:
    """Try shapes before the first request.

    Args:
        machine: its trials are filled; a compiled step is compiled.
        all_of_them: try every shape; False tries those that a first request needs.
        say: is called with a line before each length.

    Returns:
        True if the slots of a tile give the same bits, so that a row's tokens do not depend on its slot.
    """
    lengths = machine.lengths if all_of_them else machine.lengths[:1]
    alike = True
    for length in lengths:
        say(f"first steps with {length} positions")
        for group in GROUPS:
            fitting_group(machine, length, min(CHUNKS[0], length), group)
        alike = alike and agrees(machine, length, machine.base)
        for rows in machine.shapes:
            if all_of_them or rows < machine.base:
                agrees(machine, length, rows)
    return alike


def _prefill_all(machine: Machine, rows: list[list[int]], size: int, length: int) -> Tree:
    """Return the caches of rows of one chunk."""
    return next(prefill_by_chunks(machine, rows, (size,), length, len(rows)))[1]


def _try_tile(machine: Machine, length: int, ids: list[int]) -> Tensor:
    """Return the logits [R, V] of ids [R] in a tile whose cache is full of numbers of all sizes."""
    slots = new_tile(machine, len(ids), length).slots

    def fill(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return torch.full_like(x, length - 1)
        row = torch.arange(x[0].numel(), device=x.device, dtype=torch.float32).sin()
        return row.view(x.shape[1:]).to(x.dtype).expand(x.shape).contiguous()

    vocabulary = machine.model.config.vocab_size
    last = torch.tensor([17 * (id + 1) % vocabulary for id in ids], device=machine.device)
    with torch.no_grad():
        cache = tree.map(fill, slots.cache)
        slots = machine.decode[len(ids), length](Slots(cache, last, slots.logits), machine.params)
    return slots.logits.clone()
