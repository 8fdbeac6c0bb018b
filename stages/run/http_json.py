"""Exchange JSON with an HTTP server: every request ends in time, and every failure is one line.

A request ends after a number of seconds, however slowly the server sends. One that changes nothing may be
repeated after a broken connection; no other is.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

CONNECT_SECONDS = 10.0
"""Largest duration of opening a connection."""

LONGEST_REASON = 300
"""Characters of a server's own words that a message quotes."""


class Server(NamedTuple):
    """An HTTP server, and the patience with it.

    Fields:
        address: "http://HOST:PORT" or "https://HOST:PORT", perhaps with a path; see `parse_address`.
        seconds: largest duration of one request, from the connection to the last byte of the answer.
        waits: seconds before each repetition of a request that may be repeated.
        api_key: sent as "Authorization: Bearer KEY"; None sends none.
    """

    address: str
    seconds: float = 600.0
    waits: tuple[float, ...] = (1.0, 4.0)
    api_key: str | None = None


class Calls(NamedTuple):
    """Requests of several threads, which end together.

    Fields:
        stop: set by `cancel`; no request is sent or repeated after it.
        opened: their sockets. (http.client forgets the socket of an answer that it still reads.)
    """

    stop: threading.Event
    opened: list[socket.socket]


def cancel(calls: Calls) -> None:
    """Ends all requests at once: those under way raise ConnectionError in their threads."""
    calls.stop.set()
    for opened in list(calls.opened):
        _shut(opened)


def parse_address(address: str) -> str:
    """Checks an address, and removes a slash at its end.

    Args:
        address: "http://HOST:PORT", or https; a path may follow.

    Returns:
        The address.

    Raises:
        ValueError: for anything else.

    Example:
        >>> parse_address("http://localhost:8000/")
        'http://localhost:8000'
    """
    try:
        parts = urllib.parse.urlsplit(address)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_valid = False
    if not is_valid or parts.query or parts.fragment or parts.username:
        raise ValueError(
            f"expected the address of a server, such as http://localhost:8000, got {address!r}; give "
            "http://HOST:PORT"
        )
    return address.rstrip("/")


def request(
    server: Server,
    method: str,
    path: str,
    body: Any = None,
    *,
    repeat: bool = False,
    calls: Calls | None = None,
) -> Any:
    """Sends one request, and returns the answer.

    Args:
        server: the server.
        method: "GET" or "POST".
        path: after the address, such as "/v1/models".
        body: what is sent as JSON; None sends nothing.
        repeat: send it again after a broken connection or status 503 (unavailable), once for each of the
            server's waits: only for requests that change nothing. A request that ran out of time is never
            repeated.
        calls: the requests that it ends with; None: it is alone.

    Returns:
        The parsed JSON; None for an empty answer.

    Raises:
        ConnectionError: if nothing listens at the address, or the connection broke.
        TimeoutError: if the answer was not complete in time.
        ValueError: if the server refused the request, or its answer is not JSON; with its own words.
    """
    calls = calls or Calls(threading.Event(), [])
    for wait in (*(server.waits if repeat else ()), None):
        try:
            status, data = _exchange(server, method, path, body, calls)
        except ConnectionError:
            if wait is None or calls.stop.is_set():
                raise
        else:
            if status != http.HTTPStatus.SERVICE_UNAVAILABLE or wait is None:
                break
        calls.stop.wait(wait)
    place = f"{server.address}{path}"
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise ValueError(f"{place}: the server answered {status}: {_reason(data)}")
    try:
        return json.loads(data) if data.strip() else None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place}: the answer is not valid JSON ({error}); {len(data)} bytes, which end in "
            f"{data[-40:]!r}; is it a vLLM server?"
        ) from None


def wait_until_up(server: Server, path: str, seconds: float, say: Callable[[str], Any]) -> Any:
    """Sends a GET request until something listens at the address.

    Args:
        server: the server.
        path: what to get.
        seconds: how long to go on while nothing listens; 0 tries once.
        say: prints a message to the user, once, if it has to wait.

    Returns:
        The answer, as `request`.

    Raises:
        ConnectionError: if nothing listens in time; it says how long it waited.
        TimeoutError, ValueError: as `request`.
    """
    end = time.monotonic() + seconds
    has_said = False
    while True:
        try:
            return request(server._replace(waits=()), "GET", path)
        except ConnectionError as error:
            if time.monotonic() >= end:
                waited = f" (waited {seconds:g} s)" if seconds else ""
                raise ConnectionError(f"{error}{waited}") from None
        if not has_said:
            say(f"waiting up to {seconds:g} s for the server at {server.address}")
            has_said = True
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))


def _exchange(server: Server, method: str, path: str, body: Any, calls: Calls) -> tuple[int, bytes]:
    """One request: (status, bytes of the answer)."""
    place = f"{server.address}{path}"
    if calls.stop.is_set():
        raise ConnectionError(f"{place}: cancelled, as another request failed")
    parts = urllib.parse.urlsplit(server.address)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=min(server.seconds, CONNECT_SECONDS))
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if server.api_key is not None:
        headers["Authorization"] = f"Bearer {server.api_key}"
    expired = threading.Event()
    opened = _connect(server, connection)
    watch = threading.Timer(server.seconds, partial(_expire, opened, expired))
    watch.daemon = True
    calls.opened.append(opened)
    watch.start()
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, parts.path + path, data, headers)
        if calls.stop.is_set():  # between the check above and the connection
            _shut(opened)
        with connection.getresponse() as answer:
            received = answer.read()
        if expired.is_set():  # an answer without a length seems complete where it was cut off
            raise TimeoutError
        return answer.status, received
    except (http.client.HTTPException, OSError) as error:
        if expired.is_set() or isinstance(error, TimeoutError):
            raise TimeoutError(f"{place}: no complete answer within {server.seconds:g} s") from None
        raise ConnectionError(
            f"{place}: the connection broke before the answer was complete "
            f"({error or type(error).__name__}); is the server still running?"
        ) from None
    finally:
        watch.cancel()
        calls.opened.remove(opened)
        connection.close()


def _connect(server: Server, connection: http.client.HTTPConnection) -> socket.socket:
    """Opens the connection, and returns its socket."""
    try:
        connection.connect()
    except OSError as error:
        raise ConnectionError(f"no server at {server.address} ({error.strerror or error})") from None
    connection.sock.settimeout(server.seconds)
    return connection.sock


def _expire(opened: socket.socket, expired: threading.Event) -> None:
    """Ends a request that took too long, whatever it waits for."""
    expired.set()
    _shut(opened)


def _shut(opened: socket.socket) -> None:
    """Ends both directions of a connection, so that whatever waits for it returns."""
    with suppress(OSError):  # it was closed just now
        opened.shutdown(socket.SHUT_RDWR)


def _reason(data: bytes) -> str:
    """A server's own words for an error, in one line."""
    text = data.decode("utf-8", errors="replace")
    with suppress(ValueError, RecursionError):
        fields = json.loads(text)
        for name in ("error", "detail", "message"):
            if isinstance(fields, dict) and fields.get(name):
                fields = fields[name]
        text = fields if isinstance(fields, str) else json.dumps(fields)
    return " ".join(text.split())[:LONGEST_REASON] or "without a reason"
