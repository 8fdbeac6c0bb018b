"""Functions that tests compute in worker processes, which import this module and nothing of pytest."""

from __future__ import annotations

import os
import signal
import sys
import time


def square_slowly(number: int) -> tuple[int, int]:
    """(number², process id); smaller numbers take longer, so that later ones are done first."""
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number * number, os.getpid()


def invert(number: int) -> float:
    """1 / number, printed as well."""
    print(f"inverting {number}")
    return 1 / number


def end_at_three(number: int) -> int:
    """Kills its process at 3."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave(number: int) -> int:
    """Leaves the process with code 7."""
    raise SystemExit(7)


class LoudError(Exception):
    """An error that cannot be unpickled, as its arguments differ from those of the class."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{number}: {text}")


def raise_loudly(number: int) -> int:
    """Raises an error that cannot be sent as it is."""
    raise LoudError(number, "too loud")


def return_function(number: int) -> object:
    """A result that cannot be pickled."""
    return lambda: number


def has_torch(number: int) -> bool:
    """True if a process that can tokenize, filter, train a tokenizer and encode rows has loaded torch."""
    import data_pipes.duplicates
    import data_pipes.record_encoding
    import data_pipes.tokenize
    import data_pipes.tokenizer  # noqa: F401

    return "torch" in sys.modules
