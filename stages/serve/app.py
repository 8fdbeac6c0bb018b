"""The HTTP application: OpenAI's paths, a page to chat with the model, and the server's health."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stages.serve.answer import Heading, make_answer, make_chunk, make_usage_chunk
from stages.serve.channel import Channel, open_channel, putter, take_pieces
from stages.serve.engine import Engine
from stages.serve.errors import RequestError, error_body
from stages.serve.events import encode_event, send_stream, wait_until_gone
from stages.serve.fields import parse_body
from stages.serve.page import read_page
from stages.serve.progress import join_pieces
from stages.serve.queue import BusyError
from stages.serve.request import Served, Wanted, read_chat, read_text
from stages.serve.row import Piece

MOST_BYTES = 4 * 2**20
"""Largest body of a request."""

BODY_SECONDS = 60.0
"""A client that has not sent the whole body after so long is given up."""

CLIENT_GONE = 499
"""Status of an answer that nobody reads any more; nginx's."""

DONE = b"data: [DONE]\n\n"


class Service(NamedTuple):
    """Values that all paths share.

    Fields:
        served: the model as requests see it.
        engine: samples the rows.
        fingerprint: what decides the tokens of a seed, besides the request.
        bytes_of: id -> bytes of the token.
        created: seconds since 1970 at which the server started.
    """

    served: Served
    engine: Engine
    fingerprint: str
    bytes_of: Callable[[int], bytes]
    created: int


class FailedError(RuntimeError):
    """A completion that ended with an error."""


def make_app(service: Service) -> Starlette:
    """Make the application.

    Args:
        service: see `Service`.

    Returns:
        The paths /, /health, /v1/models, /v1/chat/completions and /v1/completions; every error has OpenAI's
        shape.
    """
    page = read_page()

    async def show_page(request: Request) -> Response:
        return Response(page.content, headers=dict(page.headers), media_type="text/html")

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", partial(_report_health, service)),
            Route("/v1/models", partial(_list_models, service)),
            Route("/v1/models/{name:path}", partial(_show_model, service)),
            Route("/v1/chat/completions", partial(_complete, service, True), methods=["POST"]),
            Route("/v1/completions", partial(_complete, service, False), methods=["POST"]),
        ],
        exception_handlers={
            RequestError: _answer_error,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
    )


async def _report_health(service: Service, request: Request) -> Response:
    """Answer 200 while the engine runs."""
    load = service.engine.load()
    alive = service.engine.thread.is_alive()
    body = {
        "status": "ok" if alive else "the engine has ended",
        "model": service.served.name,
        "chat": service.served.template is not None,
        "active": load.active,
        "queued": load.queued,
        "tokens": load.tokens,
    }
    return JSONResponse(body, 200 if alive else 503)


async def _list_models(service: Service, request: Request) -> Response:
    """List the one model."""
    return JSONResponse({"object": "list", "data": [_describe_model(service)]})


async def _show_model(service: Service, request: Request) -> Response:
    """Describe the model, if that is its name."""
    name = request.path_params["name"]
    if name != service.served.name:
        raise RequestError(
            f"this server has {service.served.name!r}, got {name!r:.80}", status=404, code="model_not_found"
        )
    return JSONResponse(_describe_model(service))


def _describe_model(service: Service) -> dict[str, Any]:
    """Return the model's entry."""
    return {
        "id": service.served.name,
        "object": "model",
        "created": service.created,
        "owned_by": "intro2llm",
        "max_model_len": service.served.max_length,
    }


async def _complete(service: Service, is_chat: bool, request: Request) -> Any:
    """Read a request, queue its rows, and answer."""
    fields = parse_body(await _read_body(request))
    read = read_chat if is_chat else read_text
    try:
        wanted = await run_in_threadpool(read, fields, service.served, secrets.randbits(31))
    except RecursionError:
        raise RequestError("the body is nested too deeply; expected a request of OpenAI's API") from None
    channel = open_channel()
    try:
        ticket = service.engine.submit(wanted.rows, putter(channel))
    except BusyError as error:
        raise RequestError(str(error), status=429, code="rate_limit_exceeded") from None
    heading = Heading(
        id=("chatcmpl-" if is_chat else "cmpl-") + secrets.token_hex(12),
        created=int(time.time()),
        model=service.served.name,
        fingerprint=service.fingerprint,
        is_chat=is_chat,
    )
    release = partial(service.engine.release, ticket)
    if wanted.streamed:
        return partial(send_stream, _stream(service, heading, wanted, channel), release)
    return await _collect(service, heading, wanted, channel, release, request)


async def _read_body(request: Request) -> bytes:
    """Read the body, which must be JSON, and arrive in time."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            f'expected the header "Content-Type: application/json", got {kind!r:.60}', status=415
        )
    try:
        return await asyncio.wait_for(_join_body(request), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise RequestError(
            f"the body did not arrive in {BODY_SECONDS:g} s; send it again", status=408
        ) from None
    except ClientDisconnect:
        raise RequestError("the client is gone", status=CLIENT_GONE) from None


async def _join_body(request: Request) -> bytes:
    """Read the body, which must not be too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise RequestError(f"the body is longer than {MOST_BYTES} bytes; shorten it", status=413)
    return bytes(body)


async def _collect(
    service: Service,
    heading: Heading,
    wanted: Wanted,
    channel: Channel,
    release: Callable[[], None],
    request: Request,
) -> Response:
    """Wait for all rows, and answer at once; if the client goes away, its rows are freed."""
    rows = asyncio.ensure_future(_join_rows(channel, len(wanted.rows)))
    gone = asyncio.ensure_future(wait_until_gone(request.receive))
    try:
        await asyncio.wait({rows, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not rows.done():
            return Response(status_code=CLIENT_GONE)
        return JSONResponse(make_answer(heading, wanted, rows.result(), service.bytes_of))
    except FailedError as error:
        raise RequestError(str(error), status=500) from None
    finally:
        release()
        rows.cancel()
        gone.cancel()


async def _join_rows(channel: Channel, count: int) -> list[Piece]:
    """Return all rows, each with its pieces joined."""
    rows = [Piece()] * count
    while any(row.finish is None for row in rows):
        for index, piece in (await take_pieces(channel)).items():
            if piece.error is not None:
                raise FailedError(piece.error)
            rows[index] = join_pieces(rows[index], piece)
    return rows


async def _stream(
    service: Service, heading: Heading, wanted: Wanted, channel: Channel
) -> AsyncIterator[bytes]:
    """Yield the events of a stream; an error ends it, after an event that says so."""
    counts = [0] * len(wanted.rows)
    begun, done = set[int](), 0
    while done < len(wanted.rows):
        for index, piece in (await take_pieces(channel)).items():
            if piece.error is not None:
                yield encode_event(error_body(RequestError(piece.error, status=500)))
                return
            first = index not in begun
            begun.add(index)
            counts[index] = piece.sampled
            done += piece.finish is not None
            yield encode_event(make_chunk(heading, wanted, index, piece, service.bytes_of, first=first))
    if wanted.with_usage:
        yield encode_event(make_usage_chunk(heading, wanted, counts))
    yield DONE


async def _answer_error(request: Request, error: Exception) -> Response:
    """Answer a refused request."""
    assert isinstance(error, RequestError)
    headers: Mapping[str, str] = {"Retry-After": "1"} if error.status == 429 else {}
    return JSONResponse(error_body(error), error.status, headers=headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer a path or a method that there is not."""
    assert isinstance(error, HTTPException)
    text = f"{error.detail}: {request.method} {request.url.path}"
    refused = RequestError(text, status=error.status_code)
    return JSONResponse(error_body(refused), error.status_code, headers=error.headers)


async def _answer_bug(request: Request, error: Exception) -> Response:
    """Answer an error of ours; the server logs its traceback."""
    return JSONResponse(error_body(RequestError(f"{type(error).__name__}: {error}", status=500)), 500)
