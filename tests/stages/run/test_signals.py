"""Signals are noted in the main thread, and handled as before afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from stages.run.signals import NAMES, noted


def test_every_signal_is_noted_in_order_and_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(name) for name in NAMES]
    with noted() as caught:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert caught == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
    assert signal.SIGHUP in NAMES
    assert [signal.getsignal(name) for name in NAMES] == before
    assert capfd.readouterr().err.strip() == "SIGINT: this step ends, the state is saved, then the run"


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(name) for name in NAMES]
    with pytest.raises(KeyError), noted():
        raise KeyError
    assert [signal.getsignal(name) for name in NAMES] == before


def test_another_thread_notes_nothing() -> None:
    found: list[object] = []

    def work() -> None:
        with noted() as caught:
            found.extend([caught, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[], signal.getsignal(signal.SIGTERM)]
