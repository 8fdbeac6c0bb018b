"""Catch the signals that end a run, so that the step ends and the state is saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Records SIGTERM, SIGINT and SIGHUP while the block runs; the caller reads the list, and ends the run.

    A second signal is recorded too, so that it cannot damage a save. Only the main thread receives signals:
    in another the list stays empty.

    Yields:
        The numbers of the signals, in order.
    """
    caught: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        if not caught:
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: this step ends, the state is saved, then the run\n".encode())
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = [signal.signal(name, record) for name in NAMES]
    try:
        yield caught
    finally:
        for name, handler in zip(NAMES, before, strict=True):
            signal.signal(name, handler)
