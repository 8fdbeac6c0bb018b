"""Timing side by side: ours and a peer's in one process, interleaved, so that a busy machine slows both
alike.

A single timing swings widely on a shared machine; the ratio of two runs taken one right after the other does
not. So every benchmark here is a list of pairs, and its figure is the *median of the pairs' ratios*, peer
over ours: 2.0 means that ours took half the time. Scripts are run as `python benchmarks/NAME.py [--pairs N]`
and import this file by `from _timing import ...`.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch


class Seconds(NamedTuple):
    """What one side took."""

    median: float
    min: float
    max: float


class Paired(NamedTuple):
    """Two sides timed in turn. `ratio` is the figure to report; `ratio_of_medians` should lie close to it."""

    ours: Seconds
    peer: Seconds
    ratio: float  # median over pairs of peer/ours: above 1, ours is faster
    ratio_of_medians: float  # peer.median / ours.median
    pairs: int


class Memory(NamedTuple):
    """Bytes of a process (or of its CUDA device, if it used one)."""

    rest: int  # held before the measured call
    peak: int  # the most held during the call, `rest` included


def paired(ours: Callable[[], Any], peer: Callable[[], Any], pairs: int = 20, warmup: int = 3) -> Paired:
    """Times `ours` and `peer` in turn and compares them pair by pair.

    Args:
        ours, peer: functions of no arguments. What they return is waited for (CUDA kernels, JAX arrays) and
            dropped.
        pairs: how many times each is timed, >= 1. The order within a pair alternates.
        warmup: untimed calls of each before, so that compiling does not count.

    Returns:
        Paired, times in seconds.

    Raises:
        ValueError: if pairs < 1.
    """
    if pairs < 1:
        raise ValueError(f"paired: pairs must be at least 1, got {pairs}")
    for _ in range(warmup):
        seconds(ours), seconds(peer)
    mine, theirs = [], []
    for i in range(pairs):
        first, second = (mine, theirs) if i % 2 == 0 else (theirs, mine)
        first.append(seconds(ours if first is mine else peer))
        second.append(seconds(ours if second is mine else peer))
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    a, b = _summary(mine), _summary(theirs)
    return Paired(a, b, statistics.median(ratios), b.median / a.median, pairs)


def seconds(function: Callable[[], Any]) -> float:
    """Times one call in seconds, its asynchronous work (CUDA, JAX) included."""
    _finish(None)
    start = time.perf_counter()
    _finish(function())
    return time.perf_counter() - start


def header() -> None:
    """Prints the heading of the lines which `row` prints."""
    print(f"{'what':<44} {'ours':>22} {'peer':>22} {'ratio':>7} {'reach':>6}")


def row(
    name: str, result: Paired, reach: float | None = None, *, items: float | None = None, unit: str = ""
) -> None:
    """Prints one line: medians (with min to max), the median ratio, and whether it reached what was aimed at.

    Args:
        name: what was measured.
        result: from `paired`.
        reach: the ratio aimed at (peer/ours, so at least); None if there is no aim.
        items: how many things one call handles; a second line then gives both rates, items per second.
        unit: the name of those things ("tok", "MB").
    """
    aim = "" if reach is None else f"{reach:5.2f}x"
    verdict = "" if reach is None else ("  reached" if result.ratio >= reach else "  MISSED")
    print(
        f"{name:<44} {_span(result.ours):>22} {_span(result.peer):>22} {result.ratio:6.2f}x {aim:>6}{verdict}"
    )
    if items is not None:
        rates = [f"{items / side.median:,.0f} {unit}/s" for side in (result.ours, result.peer)]
        print(f"{'':<44} {rates[0]:>22} {rates[1]:>22}")


def parser(description: str | None, pairs: int = 20) -> argparse.ArgumentParser:
    """Makes a command line which already has `--pairs N`; add your own flags to it."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--pairs", type=int, default=pairs, help=f"interleaved pairs to time (default {pairs})"
    )
    return result


def apart(prepare: Callable[..., Callable[[], Any]], *args: Any) -> Callable[[], None]:
    """Starts a process of its own for one side, for settings that hold for a whole process.

    Args:
        prepare: a module-level function; `prepare(*args)` runs in the new process and returns the function to
            time.
        args: picklable.

    Returns:
        A function that has the process call its function once, and waits; it rests in between.

    Raises:
        RuntimeError: if the process failed (on a call); its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, prepare, args), daemon=True)
    process.start()
    there.close()

    def call() -> None:
        try:
            here.send(None)
            here.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RuntimeError("apart: the other process failed; see its traceback") from None

    return call


def _serve(connection: Connection, prepare: Callable[..., Callable[[], Any]], args: tuple) -> None:
    """Runs in the other process: one call for each message, until the first process is gone."""
    function = prepare(*args)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        _finish(function())
        connection.send(None)


def peak_memory(prepare: Callable[..., Callable[[], Any]], *args: Any, warmup: int = 0) -> Memory:
    """Runs a function in a fresh process and measures the most memory that the process held during the call.

    The allocator of that process gives everything it frees back to the kernel, so that resident memory is
    what is held and not what was once held; it is slow, and must not be timed.

    Args:
        prepare: a module-level function; `prepare(*args)` runs in the new process and returns the function to
            measure. What it holds (parameters, data) is `rest`; its own temporaries are freed and forgotten.
        args: picklable.
        warmup: unmeasured calls before (compiling takes memory of its own).

    Returns:
        Memory(rest, peak) in bytes: of CUDA's allocator if the process used CUDA, else resident memory
            (Linux).

    Raises:
        RuntimeError: if the process failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, warmup, prepare, args))
    with _environment({"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}):
        process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    process.join()
    if result is None:
        raise RuntimeError(
            f"peak_memory: the measured process failed ({process.exitcode=}); see its traceback"
        )
    return Memory(*result)


def _measure(sender: Connection, warmup: int, prepare: Callable[..., Callable[[], Any]], args: tuple) -> None:
    """Runs in the fresh process: sends (rest, peak)."""
    function = prepare(*args)
    for _ in range(warmup):
        _finish(function())
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        rest = torch.cuda.memory_allocated()
        _finish(function())
        sender.send((rest, torch.cuda.max_memory_allocated()))
        return
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the kernel's way to set the peak back to what is held now
    rest = _resident("VmRSS")
    _finish(function())
    sender.send((rest, _resident("VmHWM")))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables for processes started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _resident(field: str) -> int:
    """Reads a field of /proc/self/status, in bytes: VmRSS is held now, VmHWM is the peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _finish(result: Any) -> None:
    """Waits until asynchronous work is done."""
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(result)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _summary(times: list[float]) -> Seconds:
    return Seconds(statistics.median(times), min(times), max(times))


def _span(side: Seconds) -> str:
    """Milliseconds as "median (min-max)", in seconds when long."""
    scale, unit = (1.0, "s") if side.median >= 10 else (1e3, "ms")
    digits = 1 if side.median * scale >= 10 else 2
    return f"{side.median * scale:.{digits}f} {unit} ({side.min * scale:.{digits}f}-{side.max * scale:.{digits}f})"
