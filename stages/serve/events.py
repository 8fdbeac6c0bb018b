"""Server-sent events: send the chunks of a stream, to readers that may be slow or gone.

Source: WHATWG HTML, "Server-sent events"; the last event "[DONE]" is OpenAI's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.types import Receive, Scope, Send

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
"""Compact, and strict JSON; made once, not for each event."""

SEND_SECONDS = 60.0
"""A reader that takes nothing for so long is given up."""


def encode_event(value: Any) -> bytes:
    """Return one event.

    Example:
        >>> encode_event({"n": 1})
        b'data: {"n":1}\\n\\n'
    """
    return f"data: {ENCODER.encode(value)}\n\n".encode()


async def send_stream(
    events: AsyncIterator[bytes], release: Callable[[], None], scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer a request with a stream of events. (An ASGI application, once the first two are bound.)

    It ends with the events, when the client is gone, or when it takes nothing for `SEND_SECONDS`.

    Args:
        events: the stream.
        release: is called in each of these cases.
        scope: the request's.
        receive: the request's; it is read to notice that the client is gone.
        send: the request's.
    """
    begun: list[float] = []
    tasks = [
        asyncio.ensure_future(work)
        for work in (wait_until_gone(receive), _wait_until_stuck(begun), _send_events(events, send, begun))
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        release()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client has closed the connection; the request's body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_events(events: AsyncIterator[bytes], send: Send, begun: list[float]) -> None:
    """Send the head of the answer, every event, and the end; `begun` has the time of the send under way."""
    clock = asyncio.get_running_loop().time
    await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
    async for event in events:
        begun.append(clock())
        await send({"type": "http.response.body", "body": event, "more_body": True})
        begun.clear()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_until_stuck(begun: list[float]) -> None:
    """Return when one send takes longer than `SEND_SECONDS`."""
    clock = asyncio.get_running_loop().time
    while not (begun and clock() - begun[0] > SEND_SECONDS):
        await asyncio.sleep(SEND_SECONDS / 4)
