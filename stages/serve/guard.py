"""Who may use the server: clients that know the key, or, without a key, programs of this machine.

A web page of somebody else can make a browser send requests to this machine. Without a key such requests are
refused: by the name under which the page reached us, and because only JSON is read, which a page may not send
to another server unasked.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from functools import partial

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from stages.serve.errors import RequestError, error_body

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names of this machine for itself."""


def guard(app: ASGIApp, *, api_key: str | None, names: Collection[str] = LOCAL_NAMES) -> ASGIApp:
    """Refuse requests without the key; without a key, those that did not mean this machine.

    Args:
        app: the application.
        api_key: is expected by every path below /v1/; None expects none.
        names: host names that are accepted without a key.

    Returns:
        An ASGI application.
    """
    return partial(_check_request, app, api_key, frozenset(names))


def check_api_key(key: str | None) -> None:
    """Refuse a key that no client can send in a header, or that clients send in different ways.

    Raises:
        ValueError: for a key that is empty or has other characters than printable ASCII without spaces.
    """
    if key is not None and not (key.isascii() and key.isprintable() and key and " " not in key):
        raise ValueError("--api_key: expected printable ASCII characters without spaces; choose another key")


async def _check_request(
    app: ASGIApp,
    api_key: str | None,
    names: frozenset[str],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Pass a request on, or refuse it."""
    error = None
    if scope["type"] == "http":
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if api_key is None:
            error = _check_name(headers, names)
        elif scope["path"].startswith("/v1/"):
            error = _check_key(headers, api_key)
    if error is None:
        await app(scope, receive, send)
    else:
        await JSONResponse(error_body(error), error.status)(scope, receive, send)


def _check_name(headers: dict[str, str], names: frozenset[str]) -> RequestError | None:
    """Refuse a request that came under another name, as from a page whose name was pointed at us."""
    host = headers.get("host", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.strip("[]").lower() in names:
        return None
    return RequestError(
        f"this server answers to {', '.join(sorted(names))}, got the host {host!r:.80}; start it with "
        "--api_key to use another name",
        status=403,
        code="host_not_allowed",
    )


def _check_key(headers: dict[str, str], api_key: str) -> RequestError | None:
    """Refuse a request without the key."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), api_key.encode()):
        return None
    return RequestError(
        "expected the server's key in the header \"Authorization: Bearer KEY\" (the client's api_key)",
        status=401,
        code="invalid_api_key",
    )
