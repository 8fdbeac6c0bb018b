"""Show the progress of a run: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, TextColumn
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
    """Opens the display of a run of `total` steps that begins after step `start`."""
    if quiet:
        return Progress(lambda step, values: None, lambda text: None, lambda: None)
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return _bar_display(console, label, total, start)
    return _line_display(label, total, start)


def describe(values: Mapping[str, float]) -> str:
    """Formats loss and speed in few characters.

    Example:
        >>> describe({"loss": 2.5, "val_loss": 3.0, "tok_per_sec": 11234.5, "mfu": 0.314, "grad_norm": 0.75})
        'loss 2.500 · 11,234 tok/s · mfu 31%'
        >>> describe({"loss": 2.5, "tok_per_sec": 1234.5, "tflops": 0.0613})
        'loss 2.500 · 1,234 tok/s · 0.061 TFLOP/s'
    """
    parts = [f"loss {values['loss']:.3f}"] if "loss" in values else []
    if "tok_per_sec" in values:
        parts.append(f"{values['tok_per_sec']:,.0f} tok/s")
    if "mfu" in values:
        parts.append(f"mfu {values['mfu']:.0%}")
    elif "tflops" in values:
        parts.append(f"{values['tflops']:.2g} TFLOP/s")
    return " · ".join(parts)


def format_duration(seconds: float) -> str:
    """Formats a time span.

    Example:
        >>> format_duration(125)
        '2:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_eta(total: int, clock: Callable[[], float] | None = None) -> Callable[[int], str]:
    """Makes the function step -> "left 1:23", the estimated time left.

    The estimate starts after the first step, which may compile.

    Example:
        >>> format_eta = make_eta(10, iter([5.0, 7.0]).__next__)
        >>> format_eta(1), format_eta(3)
        ('', 'left 0:07')
    """
    first: tuple[int, float] | None = None  # (step, time)

    def format_eta(step: int) -> str:
        nonlocal first
        now = time.monotonic() if clock is None else clock()
        if first is None or step <= first[0]:
            first = (step, now)
            return ""
        first_step, first_time = first
        return f"left {format_duration((now - first_time) / (step - first_step) * (total - step))}"

    return format_eta


def _bar_display(console: Console, label: str, total: int, start: int) -> Progress:
    """A progress bar."""
    bar = Bar(
        TextColumn("{task.description} {task.completed}/{task.total}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}", markup=False),
        console=console,
    )
    task = bar.add_task(label, total=total, completed=start, text="")
    format_eta = make_eta(total)
    bar.start()

    def show(step: int, values: Mapping[str, float]) -> None:
        bar.update(task, completed=step, text=_join(describe(values), format_eta(step)))

    return Progress(show, console.print, bar.stop)


def _line_display(label: str, total: int, start: int) -> Progress:
    """A line every few seconds, and one for the first and the last step."""
    last = [-SECONDS_BETWEEN_LINES]
    format_eta = make_eta(total)

    def show(step: int, values: Mapping[str, float]) -> None:
        now, eta = time.monotonic(), format_eta(step)
        if now - last[0] < SECONDS_BETWEEN_LINES and start + 1 < step < total:
            return
        last[0] = now
        _say(_join(f"{label} {step}/{total}", describe(values), eta))

    return Progress(show, _say, lambda: None)


def _join(*parts: str) -> str:
    """Joins the parts that are not empty by dots."""
    return " · ".join(part for part in parts if part)


def _say(text: str) -> None:
    """Prints one line, and flushes."""
    print(text, flush=True)
