"""Errors of a request, in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Any


class RequestError(ValueError):
    """A request that is refused.

    The message says what was expected, what came, and what to send instead.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def error_body(error: RequestError) -> dict[str, Any]:
    """Return the body of an answer: {"error": {"message", "type", "param", "code"}}.

    Example:
        >>> error_body(RequestError("n: expected at least 1, got 0", param="n"))["error"]["type"]
        'invalid_request_error'
    """
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    fields = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return {"error": {name: _as_unicode(value) for name, value in fields.items()}}


def _as_unicode(text: str | None) -> str | None:
    """Replace lone surrogates, which JSON may quote and UTF-8 cannot."""
    return None if text is None else text.encode(errors="replace").decode()
