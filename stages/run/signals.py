"""Catch signals that ask a run to end, so that it first completes its step and saves its state."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def catch_signals(quiet: bool = False) -> Iterator[list[int]]:
    """Records SIGTERM, SIGINT and SIGHUP while the block runs; the caller reads the list, and ends the run.

    A second signal is recorded too, so that it cannot damage a save. Only the main thread receives signals:
    in another the list stays empty.

    Args:
        quiet: says nothing, as another process does.

    Yields:
        The numbers of the signals, in order.
    """
    caught: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        if not caught and not quiet:
            os.write(2, f"\n{name_of(number)}: the run ends after this step; its state is saved\n".encode())
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = [signal.signal(name, record) for name in SIGNALS]
    try:
        yield caught
    finally:
        for name, handler in zip(SIGNALS, previous, strict=True):
            signal.signal(name, handler)


def name_of(number: int) -> str:
    """Returns the name of a signal.

    Example:
        >>> name_of(15)
        'SIGTERM'
    """
    return signal.Signals(number).name
