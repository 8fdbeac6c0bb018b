"""Signals that end a run: noted, so that the step ends and the state is saved, instead of dying of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def noted() -> Iterator[list[int]]:
    """Notes SIGTERM, SIGINT and SIGHUP while the block runs; the caller looks, and ends in good order.

    A second signal does no harm, whatever is being saved. Only the main thread can take signals: in another
    the list stays empty.

    Yields:
        The numbers of the signals that came, in order.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if not caught:
            os.write(
                2,
                f"\n{signal.Signals(number).name}: this step ends, the state is saved, then the run\n".encode(),
            )
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = [signal.signal(name, note) for name in NAMES]
    try:
        yield caught
    finally:
        for name, handler in zip(NAMES, before, strict=True):
            signal.signal(name, handler)
