"""The body of a worker process of `workers`, and the messages between it and its parent.

A message is a pickle with its length before it, through the worker's standard input and output. The parent
sends the function first, then items, one at a time; the worker replies to each item with (True, result) or
(False, error).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

HEADER = 8
"""Bytes of the length before each message, little-endian."""


def serve() -> None:
    """Runs in a worker process: receives the function, then replies to each item, until the pipe closes."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not come between the replies
    with suppress(EOFError, OSError):
        function = _load(receive(requests))
        while True:
            send(replies, _reply(function, receive(requests)))
    os._exit(0)  # closing `replies` would fail if the parent is gone


def send(pipe: IO[bytes] | None, message: bytes) -> None:
    """Writes a message with its length before it."""
    assert pipe is not None
    pipe.write(len(message).to_bytes(HEADER, "little"))
    pipe.write(message)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> bytes:
    """Reads a message.

    Raises:
        EOFError: if the other side ended.
    """
    assert pipe is not None
    header = pipe.read(HEADER)
    message = pipe.read(int.from_bytes(header, "little")) if len(header) == HEADER else b""
    if len(header) < HEADER or len(message) < int.from_bytes(header, "little"):
        raise EOFError
    return message


def _load(message: bytes) -> Callable[[Any], Any] | Exception:
    """Unpickles the function in a worker; returns the error of one that cannot be imported there."""
    try:
        return pickle.loads(message)
    except Exception as error:
        return TypeError(
            f"a worker process cannot load the function ({type(error).__name__}: {error}); define it and all "
            "that it uses in a module that can be imported, or pass workers=1"
        )


def _reply(function: Callable[[Any], Any] | Exception, message: bytes) -> bytes:
    """Computes a worker's reply to one item: (True, result) or (False, error), pickled."""
    try:
        if isinstance(function, Exception):
            raise function
        return pickle.dumps((True, function(pickle.loads(message))), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return _pickle_error(error)


def _pickle_error(error: Exception) -> bytes:
    """Pickles (False, error); an error that cannot be unpickled becomes a RuntimeError with its text."""
    with suppress(Exception):
        message = pickle.dumps((False, error))
        pickle.loads(message)
        return message
    return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
