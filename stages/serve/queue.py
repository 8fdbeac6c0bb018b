"""The queue of rows, and the requests that they belong to: shared by the engine's thread and all others."""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stages.serve.row import Job, Piece, Row

CLOSING = "the server is shutting down; send the request again later"

Put = Callable[[int, Piece], None]
"""Takes the next piece of a row of a request, by the row's index; called by the engine's thread."""


class BusyError(RuntimeError):
    """A request that the queue has no room for."""


class Load(NamedTuple):
    """Load of the engine.

    Fields:
        active: rows that are being sampled.
        queued: rows that wait for a slot.
        held: rows of all requests that were not released.
        tokens: tokens sampled since the start.
    """

    active: int
    queued: int
    held: int
    tokens: int


class Ticket(NamedTuple):
    """A request: the number of its rows, and where their pieces go."""

    rows: int
    put: Put


@dataclass(frozen=True)
class Shared:
    """State that the threads share; `changed` guards the rest.

    Args:
        most_rows: rows that are sampled at once.
        most_held: rows of all requests together.
        changed: is notified of new rows, and of the end.
        queue: rows without a slot, in the order in which they came.
        tickets: requests that were not released.
        numbers: source of tickets.
        closing: set by `close`.
        counters: "sampled", tokens since the start; "active", rows that are being sampled.
    """

    most_rows: int
    most_held: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    queue: deque[Job] = field(default_factory=deque)
    tickets: dict[int, Ticket] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    closing: threading.Event = field(default_factory=threading.Event)
    counters: dict[str, int] = field(default_factory=lambda: {"sampled": 0, "active": 0})


def submit_rows(shared: Shared, rows: Sequence[Row], put: Put) -> int:
    """Queue the rows of a request, and return its ticket.

    Raises:
        BusyError: if there is no room for all of them, or the engine is closed.
    """
    with shared.changed:
        held = sum(ticket.rows for ticket in shared.tickets.values())
        if shared.closing.is_set():
            raise BusyError(CLOSING)
        if held + len(rows) > shared.most_held:
            raise BusyError(
                f"the server has {held} completions under way and room for {shared.most_held}, and this "
                f"request asks for {len(rows)}; try again in a moment"
            )
        ticket = next(shared.numbers)
        shared.tickets[ticket] = Ticket(len(rows), put)
        shared.queue.extend(Job(ticket, index, row) for index, row in enumerate(rows))
        shared.changed.notify()
    return ticket


def release_ticket(shared: Shared, ticket: int) -> None:
    """Forget a request; its rows leave the queue, and their slots before the next step."""
    with shared.changed:
        if shared.tickets.pop(ticket, None) is not None and any(j.ticket == ticket for j in shared.queue):
            kept = [job for job in shared.queue if job.ticket != ticket]
            shared.queue.clear()
            shared.queue.extend(kept)
        shared.changed.notify()


def close_queue(shared: Shared, why: str = CLOSING) -> None:
    """End every request and the thread."""
    with shared.changed:
        shared.closing.set()
        shared.queue.clear()
        tickets = list(shared.tickets.values())
        shared.tickets.clear()
        shared.changed.notify()
    for ticket in tickets:
        for index in range(ticket.rows):
            ticket.put(index, Piece(error=why))


def read_load(shared: Shared) -> Load:
    """Return the load."""
    with shared.changed:
        held = sum(ticket.rows for ticket in shared.tickets.values())
        return Load(shared.counters["active"], len(shared.queue), held, shared.counters["sampled"])


def is_held(shared: Shared, job: Job) -> bool:
    """Tell whether a row's request was not released."""
    return job.ticket in shared.tickets


def send_piece(shared: Shared, job: Job, piece: Piece) -> None:
    """Send a piece to the row's request, unless that was released."""
    ticket = shared.tickets.get(job.ticket)
    if ticket is not None:
        ticket.put(job.position, piece)


def fail_jobs(shared: Shared, jobs: Sequence[Job], error: Exception) -> None:
    """End rows with an error; the traceback goes to stderr."""
    traceback.print_exception(error, file=sys.stderr)
    text = " ".join(str(error).split())[:300]
    for job in jobs:
        send_piece(shared, job, Piece(error=f"{type(error).__name__}: {text}"))
