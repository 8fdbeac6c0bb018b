"""Signals are recorded in the main thread, and handled as before afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from stages.run.signals import SIGNALS, catch_signals


def test_every_signal_is_recorded_in_order_and_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(name) for name in SIGNALS]
    with catch_signals() as caught:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert caught == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
    assert signal.SIGHUP in SIGNALS
    assert [signal.getsignal(name) for name in SIGNALS] == before
    assert capfd.readouterr().err.strip() == "SIGINT: the run ends after this step; its state is saved"


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(name) for name in SIGNALS]
    with pytest.raises(KeyError), catch_signals():
        raise KeyError
    assert [signal.getsignal(name) for name in SIGNALS] == before


def test_outside_the_main_thread_no_signal_is_caught() -> None:
    results: list[object] = []

    def work() -> None:
        with catch_signals() as caught:
            results.extend([caught, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [[], signal.getsignal(signal.SIGTERM)]
