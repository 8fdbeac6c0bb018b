"""The engine: one thread that owns the model, and rows of all requests that begin and end as they come.

Each pass of the loop fills free slots from the queue (a few chunks of prefill), then lets every tile with
rows take one step. A row of a request that is done, or whose client is gone, frees its slot for the next row
in the queue.

Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", 2022.
"""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch

from pure.types import Tree
from stages.serve.machine import Machine, lengthen, new_tile, smallest_of
from stages.serve.prefill import GROUPS, LONGEST_IN_GROUP, chunk_sizes, prefill_by_chunks, take_row
from stages.serve.progress import advance_row, start_rows
from stages.serve.queue import (
    Load,
    Put,
    Shared,
    close_queue,
    fail_jobs,
    is_held,
    read_load,
    release_ticket,
    send_piece,
    submit_rows,
)
from stages.serve.row import Job, Piece, Row
from stages.serve.shapes import fitting_group, fitting_shape
from stages.serve.tile import Active, Tile, move_rows, place_row, step_tile, take_cache, with_rows

PREFILL_TOKENS = 512
"""Tokens that are prefilled between two steps, while other rows wait for their next token."""


class Engine(NamedTuple):
    """A running engine; every function may be called from any thread, and returns at once.

    Fields:
        submit: (rows, put) -> the request's ticket. Raises BusyError if the queue has no room for all rows.
        release: ticket -> None; frees what the request still has. To be called for every ticket, once all its
            pieces were read, or nobody reads them.
        close: () -> None; every request gets an error as its last piece, and the thread ends.
        load: () -> Load.
        thread: ends after `close`.
    """

    submit: Callable[[Sequence[Row], Put], int]
    release: Callable[[int], None]
    close: Callable[[], None]
    load: Callable[[], Load]
    thread: threading.Thread


class Filling(NamedTuple):
    """Rows whose prompts are being prefilled: their chunks that are left, and their caches so far."""

    jobs: tuple[Job, ...]
    chunks: Iterator[tuple[int, Tree]]
    cache: Tree


class Work(NamedTuple):
    """State of the engine's thread: its tiles, and the rows that are being prefilled, if any."""

    tiles: tuple[Tile, ...] = ()
    filling: Filling | None = None


def start_engine(machine: Machine, *, most_queued: int) -> Engine:
    """Start the engine's thread.

    Args:
        machine: the model.
        most_queued: rows that may wait for a slot.

    Returns:
        Engine.
    """
    shared = Shared(machine.most_rows, machine.most_rows + most_queued)
    thread = threading.Thread(target=_run, args=(machine, shared), name="engine", daemon=True)
    thread.start()
    return Engine(
        submit=partial(submit_rows, shared),
        release=partial(release_ticket, shared),
        close=partial(close_queue, shared),
        load=partial(read_load, shared),
        thread=thread,
    )


def _run(machine: Machine, shared: Shared) -> None:
    """Run the loop until the engine is closed; an error outside the rows' own work closes it."""
    try:
        _run_loop(machine, shared)
    except Exception as error:
        traceback.print_exception(error, file=sys.stderr)
        close_queue(shared, f"the engine has ended: {type(error).__name__}; start the server again")


def _run_loop(machine: Machine, shared: Shared) -> None:
    """Run the loop until the engine is closed."""
    work = Work()
    with torch.no_grad():
        while _wait_for_work(shared, work):
            work = _drop_released(machine, shared, work)
            work = _fill_slots(machine, shared, work)
            shared.counters["active"] = len(_active_rows(work))
            work = _step_tiles(machine, shared, work)
            shared.counters["active"] = len(_active_rows(work))


def _wait_for_work(shared: Shared, work: Work) -> bool:
    """Wait until there is something to compute; False once the engine is closed."""
    with shared.changed:
        while not (shared.queue or work.filling or _active_rows(work) or shared.closing.is_set()):
            shared.changed.wait()
        return not shared.closing.is_set()


def _active_rows(work: Work) -> list[Active]:
    """Return the rows of all tiles."""
    return [active for tile in work.tiles for active in tile.rows if active is not None]


def _drop_released(machine: Machine, shared: Shared, work: Work) -> Work:
    """Free the slots of requests that were released."""
    tiles = []
    for tile in work.tiles:
        rows = [active if active and is_held(shared, active.job) else None for active in tile.rows]
        tiles.append(tile if rows == list(tile.rows) else with_rows(tile, rows, machine.vocabulary))
    filling = work.filling
    if filling is not None and not any(is_held(shared, job) for job in filling.jobs):
        filling = None
    used = [tile for tile in tiles if any(tile.rows)]
    if not shared.queue:
        used = [_shrink(machine, tile) for tile in used]
    return Work(tuple(used), filling)


def _shrink(machine: Machine, tile: Tile) -> Tile:
    """Move the rows of a tile to one with fewer slots, if they fit."""
    count = sum(active is not None for active in tile.rows)
    rows = fitting_shape(machine, tile.length, count)
    if rows is None or rows >= len(tile.rows):
        return tile
    return move_rows(tile, new_tile(machine, rows, tile.length), machine.vocabulary)


def _fill_slots(machine: Machine, shared: Shared, work: Work) -> Work:
    """Prefill rows of the queue and place them, up to a number of tokens."""
    computed = 0
    while computed < PREFILL_TOKENS:
        if work.filling is None:
            jobs = _next_jobs(machine, shared, shared.most_rows - len(_active_rows(work)))
            if not jobs:
                return work
            work = work._replace(filling=_start_filling(machine, jobs))
        filling = work.filling
        assert filling is not None, "rows were taken from the queue"
        try:
            chunk = next(filling.chunks, None)
            if chunk is not None:
                computed += chunk[0]
                work = work._replace(filling=filling._replace(cache=chunk[1]))
            else:
                work = Work(_place_all(machine, shared, work.tiles, filling))
        except Exception as error:
            fail_jobs(shared, filling.jobs, error)
            work = work._replace(filling=None)
    return work


def _next_jobs(machine: Machine, shared: Shared, free: int) -> tuple[Job, ...]:
    """Take the next row from the queue, and those after it that are prefilled together with it.

    Args:
        machine: its trials are filled.
        shared: has the queue.
        free: number of free slots.
    """
    with shared.changed:
        waiting = list(itertools.islice(shared.queue, min(free, GROUPS[-1])))
    if not waiting:
        return ()
    sizes, length = _prefill_shape(machine, waiting[0])
    alike = list(itertools.takewhile(lambda job: _prefill_shape(machine, job) == (sizes, length), waiting))
    taken = alike[: _group_size(machine, sizes, length, len(alike))]
    with shared.changed:  # a request may have been released since
        kept = [job for job in taken if is_held(shared, job)]
        while shared.queue and shared.queue[0] in kept:
            shared.queue.popleft()
    return tuple(kept)


def _group_size(machine: Machine, sizes: Sequence[int], length: int, count: int) -> int:
    """Return G for some rows with chunks of these sizes: 1 if they are computed one by one."""
    if len(sizes) > 1 or sum(sizes) > LONGEST_IN_GROUP:
        return 1
    return fitting_group(machine, length, sizes[0], count) if sizes else count


def _prefill_shape(machine: Machine, job: Job) -> tuple[tuple[int, ...], int]:
    """Return the sizes of a row's chunks, and the length of its tile."""
    length = smallest_of(machine.lengths, len(job.row.prompt))
    return chunk_sizes(len(job.row.prompt) - 1, length), length


def _start_filling(machine: Machine, jobs: tuple[Job, ...]) -> Filling:
    """Return rows before their first chunk."""
    sizes, length = _prefill_shape(machine, jobs[0])
    rows = [job.row.prompt[:-1] for job in jobs]
    count = _group_size(machine, sizes, length, len(rows))
    return Filling(jobs, prefill_by_chunks(machine, rows, sizes, length, count), None)


def _place_all(
    machine: Machine, shared: Shared, tiles: tuple[Tile, ...], filling: Filling
) -> tuple[Tile, ...]:
    """Put the rows that were prefilled into tiles, without those whose request was released."""
    for index, active in enumerate(start_rows(filling.jobs, machine)):
        if is_held(shared, active.job):
            tiles = _place(machine, tiles, active, take_row(filling.cache, index))
    return tiles


def _place(machine: Machine, tiles: tuple[Tile, ...], active: Active, cache: Tree) -> tuple[Tile, ...]:
    """Put a row into the tile of the length that it needs next; make it or give it more slots if need be."""
    length = smallest_of(machine.lengths, active.cached + 1)
    same = [tile for tile in tiles if tile.length == length]
    for tile in same:
        if None in tile.rows:
            others = [other for other in tiles if other is not tile]
            return (*others, place_row(tile, cache, active, machine.vocabulary))
    rows = fitting_shape(machine, length, len(same[-1].rows) + 1) if same else None
    if rows is None:
        tile = new_tile(machine, fitting_shape(machine, length, 1) or machine.base, length)
    else:
        tiles = tuple(tile for tile in tiles if tile is not same[-1])
        tile = move_rows(same[-1], new_tile(machine, rows, length), machine.vocabulary)
    return (*tiles, place_row(tile, cache, active, machine.vocabulary))


def _step_tiles(machine: Machine, shared: Shared, work: Work) -> Work:
    """Let every tile with rows take a step; then move the rows that have outgrown their tile."""
    tiles = []
    for tile in work.tiles:
        if any(tile.rows):
            try:
                tile = _step_one_tile(machine, shared, tile)
            except Exception as error:
                fail_jobs(shared, [active.job for active in tile.rows if active is not None], error)
                continue
        tiles.append(tile)
    return work._replace(tiles=_move_grown(machine, tuple(tiles)))


def _step_one_tile(machine: Machine, shared: Shared, tile: Tile) -> Tile:
    """Sample a token for each row of a tile, and send it."""
    tile, sampled = step_tile(tile, machine.params, machine.decode[len(tile.rows), tile.length])
    rows: list[Active | None] = []
    for active, token in zip(tile.rows, sampled, strict=True):
        if active is None or token is None:
            rows.append(None)
            continue
        active, piece = advance_row(active, token, machine)
        shared.counters["sampled"] += 1
        if piece != Piece(sampled=piece.sampled):
            send_piece(shared, active.job, piece)
        rows.append(None if piece.finish or piece.error else active)
    if rows.count(None) == tile.rows.count(None):
        return tile._replace(rows=tuple(rows))
    return with_rows(tile, rows, machine.vocabulary)


def _move_grown(machine: Machine, tiles: tuple[Tile, ...]) -> tuple[Tile, ...]:
    """Move the rows that fill their tile to the longer one."""
    kept, grown = [], []
    for tile in tiles:
        full = [active is not None and active.cached == tile.length for active in tile.rows]
        if any(full):
            length = smallest_of(machine.lengths, tile.length + 1)
            for slot, active in enumerate(tile.rows):
                if active is not None and full[slot]:
                    grown.append((active, lengthen(machine, take_cache(tile, slot), length)))
            rows = [None if full[slot] else active for slot, active in enumerate(tile.rows)]
            tile = with_rows(tile, rows, machine.vocabulary)
        kept.append(tile)
    tiles = tuple(kept)
    for active, cache in grown:
        tiles = _place(machine, tiles, active, cache)
    return tiles
