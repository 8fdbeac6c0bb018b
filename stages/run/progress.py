"""What a person sees of a run: a live line on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 10.0


class Progress(NamedTuple):
    """A display that owns the terminal's last line until it is closed.

    Fields:
        show: (step, {name: number}) -> None; may be called every step.
        say: (text) -> None; a line of its own.
        close: () -> None.
    """

    show: Callable[[int, Mapping[str, float]], None]
    say: Callable[[str], None]
    close: Callable[[], None]


def progress(label: str, total: int, start: int = 0, *, quiet: bool = False) -> Progress:
    """Opens the display of a run of `total` steps that begins at `start`."""
    if quiet:
        return Progress(lambda step, values: None, lambda text: None, lambda: None)
    if Console().is_terminal:
        return _live(label, total, start)
    return _lines(label, total, start)


def describe(values: Mapping[str, float]) -> str:
    """Writes the numbers that a person follows, in few characters.

    Example:
        >>> describe({"loss": 2.5, "tok_per_sec": 11234.5, "grad_norm": 0.75})
        'loss 2.500 · 11,234 tok/s'
    """
    parts = [f"{name} {values[name]:.3f}" for name in ("loss", "val_loss", "val_bpb") if name in values]
    if "tok_per_sec" in values:
        parts.append(f"{values['tok_per_sec']:,.0f} tok/s")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Writes a time span as a person says it.

    Example:
        >>> duration(125)
        '2:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _live(label: str, total: int, start: int) -> Progress:
    """A bar that moves."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    task = bar.add_task(label, total=total, completed=start, text="")
    bar.start()
    return Progress(
        show=lambda step, values: bar.update(task, completed=step, text=describe(values)),
        say=bar.console.print,
        close=bar.stop,
    )


def _lines(label: str, total: int, start: int) -> Progress:
    """A line every few seconds, and one for the last step."""
    begun = time.monotonic()
    last = [begun - SECONDS_BETWEEN_LINES]

    def show(step: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - last[0] < SECONDS_BETWEEN_LINES and step < total:
            return
        last[0] = now
        done = max(step - start, 1)
        left = duration((now - begun) / done * (total - step))
        _say(f"{label} {step}/{total} · {describe(values)} · left {left}")

    return Progress(show, _say, lambda: None)


_say: Callable[[Any], None] = partial(print, file=sys.stdout, flush=True)
