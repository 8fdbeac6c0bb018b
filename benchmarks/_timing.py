"""Time two sides, ours and a peer's, interleaved in one process, so that other load slows both equally.

A single timing varies widely on a shared machine; the ratio of two consecutive runs does not. So every
benchmark is a list of pairs, and its figure is the *median of the pairs' ratios*, peer over ours: 2.0 means
that ours took half the time. Scripts are run as `python benchmarks/NAME.py [--pairs N]` and import this file
by `from _timing import ...`.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch


class Seconds(NamedTuple):
    """Times of one side in seconds."""

    median: float
    min: float
    max: float


class Paired(NamedTuple):
    """Times of two sides. `ratio` is the figure to report; `ratio_of_medians` should be close to it."""

    ours: Seconds
    peer: Seconds
    ratio: float  # median over pairs of peer/ours: above 1, ours is faster
    ratio_of_medians: float  # peer.median / ours.median
    pairs: int


class Memory(NamedTuple):
    """Bytes of a process (or of its CUDA device, if it used one)."""

    rest: int  # in use before the measured call (at rest)
    peak: int  # most in use during the call, `rest` included

    @property
    def above_rest(self) -> int:
        """Bytes that the call itself needs."""
        return self.peak - self.rest


def time_pairs(ours: Callable[[], Any], peer: Callable[[], Any], pairs: int = 20, warmup: int = 3) -> Paired:
    """Time `ours` and `peer` alternately and compare them pair by pair.

    Args:
        ours, peer: functions of no arguments. A call is timed until its asynchronous work (CUDA kernels, JAX
            arrays) is done; its result is discarded.
        pairs: number of times that each is timed, >= 1. The order within a pair alternates.
        warmup: untimed calls of each first, so that compilation is not timed.

    Returns:
        Paired, times in seconds.

    Raises:
        ValueError: if pairs < 1.
    """
    if pairs < 1:
        raise ValueError(f"time_pairs: pairs must be at least 1, got {pairs}")
    for _ in range(warmup):
        time_call(ours)
        time_call(peer)
    mine: list[float] = []
    theirs: list[float] = []
    order = [(ours, mine), (peer, theirs)]
    for _ in range(pairs):
        for function, times in order:
            times.append(time_call(function))
        order.reverse()
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    a, b = _summary(mine), _summary(theirs)
    return Paired(a, b, statistics.median(ratios), b.median / a.median, pairs)


def time_call(function: Callable[[], Any]) -> float:
    """Time one call in seconds, its asynchronous work (CUDA, JAX) included."""
    _finish(None)
    start = time.perf_counter()
    _finish(function())
    return time.perf_counter() - start


def least_cpu_seconds(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Measure the least CPU seconds of each function over rounds in which all of them take turns.

    On a loaded machine elapsed time mostly measures the other processes; the least CPU time of one thread
    does not.

    Args:
        functions: name -> function of no arguments, called once before the first round.
        rounds: >= 1.

    Returns:
        name -> CPU seconds of this process.
    """
    for function in functions.values():
        function()
    least = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.process_time()
            function()
            least[name] = min(least[name], time.process_time() - start)
    return least


def print_header() -> None:
    """Print the column headings of `print_row`."""
    print(f"{'measured':<44} {'ours':>22} {'peer':>22} {'ratio':>7} {'target':>6}")


def print_row(
    name: str, result: Paired, target: float | None = None, *, items: float | None = None, unit: str = ""
) -> None:
    """Print one line: medians (with min to max), the median ratio, and whether it reached its target.

    Args:
        name: label of the line, at most 44 characters.
        result: from `time_pairs`.
        target: lowest ratio peer/ours that counts as reached; None prints no target.
        items: number of items that one call handles; a second line then gives both rates, items per second.
        unit: name of the items ("tok", "MB").
    """
    target_text = verdict = ""
    if target is not None:
        target_text = f"{target:5.2f}x"
        verdict = "  reached" if result.ratio >= target else "  MISSED"
    times = f"{_format_times(result.ours):>22} {_format_times(result.peer):>22}"
    print(f"{name:<44} {times} {result.ratio:6.2f}x {target_text:>6}{verdict}")
    if items is not None:
        rates = [f"{items / side.median:,.0f} {unit}/s" for side in (result.ours, result.peer)]
        print(f"{'':<44} {rates[0]:>22} {rates[1]:>22}")


def make_parser(description: str | None, pairs: int = 20) -> argparse.ArgumentParser:
    """Make a command-line parser with `--pairs N`, to which a script adds its own flags."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--pairs", type=int, default=pairs, help=f"interleaved pairs to time (default {pairs})"
    )
    return result


def run_in_process(prepare: Callable[..., Callable[[], Any]], *args: Any) -> Callable[[], None]:
    """Run one side in a child process of its own, for settings that apply to a whole process.

    Args:
        prepare: a module-level function; `prepare(*args)` runs in the child process and returns the function
            to time.
        args: arguments of `prepare`; must be picklable.

    Returns:
        A function that makes the child process call its function once, and waits for it. The child process is
        idle between calls.

    Raises:
        RuntimeError: if the process failed (on a call); its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve, args=(child_end, prepare, args), daemon=True)
    process.start()
    child_end.close()

    def call() -> None:
        try:
            parent_end.send(None)
            parent_end.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RuntimeError("run_in_process: the child process failed; see its traceback") from None

    return call


def _serve(connection: Connection, prepare: Callable[..., Callable[[], Any]], args: tuple) -> None:
    """Call the function once for each message, until the pipe closes. Runs in the child process."""
    function = prepare(*args)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        _finish(function())
        connection.send(None)


def peak_memory(prepare: Callable[..., Callable[[], Any]], *args: Any, warmup: int = 0) -> Memory:
    """Measure the peak memory of a function in a new process.

    The allocator of that process returns freed memory to the kernel at once, so that resident memory is the
    memory in use; it is slow, and must not be timed.

    Args:
        prepare: a module-level function; `prepare(*args)` runs in the new process and returns the function to
            measure. The memory that this function already holds (parameters, data) is `rest`.
        args: arguments of `prepare`; must be picklable.
        warmup: unmeasured calls first (compilation needs memory too).

    Returns:
        Memory(rest, peak) in bytes: of CUDA's allocator if the process used CUDA, else resident memory (Linux
        only).

    Raises:
        RuntimeError: if the process failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(sender, warmup, prepare, args))
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


def print_peak_memory(name: str, ours: Memory, peer: Memory) -> None:
    """Print the memory that a step needs on top of that at rest, ours and the peer's, and their ratio."""
    mine, theirs = ours.above_rest, peer.above_rest
    print(
        f"peak memory above rest: ours {mine / 2**20:.0f} MiB, {name} {theirs / 2**20:.0f} MiB "
        f"({theirs / mine:.2f}x)"
    )


def print_first_call(function: Callable[[], Any]) -> None:
    """Call a function for the first time, which compiles it, and print the seconds."""
    print(f"first call, which compiles: {time_call(function):.1f} s")


def _measure_peak(
    sender: Connection, warmup: int, prepare: Callable[..., Callable[[], Any]], args: tuple
) -> None:
    """Measure (rest, peak) and send them. Runs in the new process."""
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
        file.write("5")  # resets the peak to the memory in use
    rest = resident_bytes("VmRSS")
    _finish(function())
    sender.send((rest, resident_bytes("VmHWM")))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def resident_bytes(field: str) -> int:
    """Read a field of /proc/self/status, in bytes: VmRSS is in use, VmHWM is the peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _finish(result: Any) -> None:
    """Wait until asynchronous work is done."""
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(result)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _summary(times: list[float]) -> Seconds:
    return Seconds(statistics.median(times), min(times), max(times))


def _format_times(side: Seconds) -> str:
    """Format times as "median (min-max)", in milliseconds, or in seconds from 10 s on."""
    scale, unit = (1.0, "s") if side.median >= 10 else (1e3, "ms")
    digits = 1 if side.median * scale >= 10 else 2
    median, least, most = (f"{seconds * scale:.{digits}f}" for seconds in side)
    return f"{median} {unit} ({least}-{most})"
