"""A channel from the engine's thread to the event loop: the pieces of one request.

It holds at most what the request's rows can have, `max_new_tokens` each: a slow reader delays nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import NamedTuple

from stages.serve.progress import join_pieces
from stages.serve.row import Piece


class Channel(NamedTuple):
    """Pieces that were not read.

    Fields:
        loop: the event loop of the reader.
        pieces: (index of the row, piece), in order.
        ready: set when there are pieces.
    """

    loop: asyncio.AbstractEventLoop
    pieces: deque[tuple[int, Piece]]
    ready: asyncio.Event


def open_channel() -> Channel:
    """Open a channel whose reader is in the running event loop."""
    return Channel(asyncio.get_running_loop(), deque(), asyncio.Event())


def put_piece(channel: Channel, index: int, piece: Piece) -> None:
    """Add a piece; from any thread. Once the loop is closed nobody reads it, and it is dropped."""
    channel.pieces.append((index, piece))
    if not channel.ready.is_set() and not channel.loop.is_closed():
        channel.loop.call_soon_threadsafe(channel.ready.set)


def putter(channel: Channel) -> partial[None]:
    """Return the function (index, piece) -> None that the engine calls."""
    return partial(put_piece, channel)


async def take_pieces(channel: Channel) -> dict[int, Piece]:
    """Wait for pieces, and take all: those of each row joined to one."""
    await channel.ready.wait()
    channel.ready.clear()
    joined: dict[int, Piece] = {}
    while channel.pieces:
        index, piece = channel.pieces.popleft()
        joined[index] = join_pieces(joined[index], piece) if index in joined else piece
    return joined
