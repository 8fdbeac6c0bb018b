"""A small model, an engine for it, and rows to sample."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pure import random
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.slots import Slots
from pure.types import Tree
from stages.models.language_model import Pretrained
from stages.serve.engine import Engine, start_engine
from stages.serve.machine import Machine, make_machine
from stages.serve.progress import join_pieces
from stages.serve.request import row_keys
from stages.serve.row import Piece, Row
from stages.serve.shapes import try_shapes
from tests.stages.models.test_language_model import make_model

LENGTH = 300
"""Prompt and completion together: tiles of 128, 256 and 300 positions."""


def make_base(**changes: Any) -> Pretrained:
    """A freshly initialised model with a context of 512 tokens."""
    return make_model(**({"max_position_embeddings": 512, "initializer_range": 0.2} | changes))


def make_small_machine(base: Pretrained | None = None, *, max_rows: int = 12, **options: Any) -> Machine:
    """The model for an engine of 12 rows."""
    machine = make_machine(base or make_base(), max_rows=max_rows, max_length=LENGTH, **options)
    assert try_shapes(machine, all_of_them=False, say=print)
    return machine


def slowed(machine: Machine) -> Machine:
    """A machine whose steps take 20 ms, so that rows are still sampled when a test looks at them."""

    def decode(slots: Slots, params: Tree) -> Slots:
        time.sleep(0.02)
        return machine.decode[len(slots.last), slots.cache.layers[0].keys.shape[2]](slots, params)

    return machine._replace(decode=dict.fromkeys(machine.decode, decode))


@contextmanager
def running_engine(machine: Machine, *, most_queued: int = 64) -> Iterator[Engine]:
    """Start an engine, and end it."""
    engine = start_engine(machine, most_queued=most_queued)
    try:
        yield engine
    finally:
        engine.close()
        engine.thread.join(10)
        assert not engine.thread.is_alive()


def make_row(seed: int, prompt: Sequence[int], new: int, **changes: Any) -> Row:
    """The only row of a request."""
    return Row(tuple(prompt), row_keys(seed, 1)[0], new, **({"alternatives": 0} | changes))


class Pending:
    """A request that was submitted: its pieces come in a queue."""

    def __init__(self, engine: Engine, rows: Sequence[Row]) -> None:
        self.engine = engine
        self.rows = [Piece() for _ in rows]
        self.pieces: queue.Queue[tuple[int, Piece]] = queue.Queue()
        self.ticket = engine.submit(rows, lambda index, piece: self.pieces.put((index, piece)))

    def finish(self) -> list[Piece]:
        """Wait for all rows; return each with its pieces joined."""
        while any(row.finish is None and row.error is None for row in self.rows):
            index, piece = self.pieces.get(timeout=30)
            self.rows[index] = join_pieces(self.rows[index], piece)
        self.engine.release(self.ticket)
        return self.rows


def sample_rows(engine: Engine, *rows: Row) -> list[Piece]:
    """Sample the rows of one request."""
    return Pending(engine, rows).finish()


def ids_of(piece: Piece) -> list[int]:
    """The ids of a row that reports log-probabilities."""
    return [token.id for token in piece.tokens]


def generated_ids(base: Pretrained, seed: int, prompt: Sequence[int], new: int, **changes: Any) -> list[int]:
    """The tokens that the library's call samples from the same seed."""
    sampling = Sampling(max_new_tokens=new, **changes)
    with torch.no_grad():
        result = generate(base.model, base.params, [list(prompt)], sampling, key=random.key(seed))
    return result.tokens[0, : int(result.lengths[0])].tolist()
