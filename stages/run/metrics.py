"""The numbers of a run, from the device to the writers: read seldom where reading makes the device wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stages.run.log import Writer
from stages.run.mfu import Work, speed
from stages.run.progress import Progress
from stages.state import TrainState

SECONDS = 2.0
"""After so long the pending steps are read, so that a person sees the run move."""

PATIENCE = 50
"""Steps in a row whose gradient is not finite, after which a run stops."""


class Observe(Protocol):
    """Derives further numbers for the log from a state, as tensors on its device."""

    def __call__(self, state: TrainState, /) -> Mapping[str, Tensor]: ...


class Readings(NamedTuple):
    """Collects each step's metrics, and writes one line a step.

    Fields:
        begin: () -> None; a step begins.
        add: (number, state) -> None; a step was issued. Its metrics are copied on the device, not read.
        settle: () -> None; waits for the steps added, and reads them: the clock stops here.
        write: ({name: value}) -> None; settles, adds the numbers to the last step's line, and writes all
            lines.
        due: () -> bool; whether it is time to write.
        flush: () -> None; what was written is on the disk.
        passed_over: () -> (steps in which an update was skipped, steps written).
    """

    begin: Callable[[], None]
    add: Callable[[int, TrainState], None]
    settle: Callable[[], None]
    write: Callable[[Mapping[str, float]], None]
    due: Callable[[], bool]
    flush: Callable[[], None]
    passed_over: Callable[[], tuple[int, int]]


class _Pending(NamedTuple):
    """A step whose numbers are still on the device."""

    number: int
    names: tuple[str, ...]
    values: Tensor  # [names], float32


def readings(
    writers: Sequence[Writer],
    screen: Progress,
    *,
    observe: Observe,
    paths: Sequence[str],
    every: int = 1,
    work: Work | None = None,
    compiling: bool = False,
) -> Readings:
    """Makes the Readings of a run.

    Reading a number waits for the device, which then has nothing to do until the host has issued the next
    step. On a GPU up to 16 steps are therefore read at a time. Steps read together share one speed.

        tok_per_sec = tokens of a step · steps read / seconds since `begin`
        tflops      = tok_per_sec · operations a token / 10¹²,     mfu = the share of the peak, where it is
        known

    Args:
        writers: get every line.
        screen: shows the last line, and says why an update was skipped.
        observe: state -> further numbers on the device, such as the learning rate.
        paths: of the params, in the order of `nonfinite_leaf`.
        every: steps read at a time.
        work: what a token takes and what the device could do; None leaves tflops and mfu out.
        compiling: the first step compiles: its line has compile_seconds, and no speed.

    Returns:
        Readings.
    """
    pending: list[_Pending] = []
    ready: list[tuple[int, dict[str, float]]] = []
    begun: list[float] = []
    first = [compiling]
    bad = [0, 0, 0]  # in a row, altogether, steps written

    def begin() -> None:
        if not pending:
            begun[:] = [time.monotonic()]

    def add(number: int, state: TrainState) -> None:
        found = _single({**state.metrics, **observe(state)})
        pending.append(_Pending(number, tuple(found), torch.stack(list(found.values()))))

    def settle() -> None:
        rows = [(step.number, dict(zip(step.names, step.values.tolist(), strict=True))) for step in pending]
        if rows and first[0]:
            first[0], seconds = False, time.monotonic() - begun[0]
            rows[0][1]["compile_seconds"] = seconds
            screen.say(f"compiled in {seconds:.0f} s, the first step included")
        elif rows:
            _speed(rows, time.monotonic() - begun[0], work)
        ready.extend(rows)
        pending.clear()

    def write(more: Mapping[str, float]) -> None:
        settle()
        if ready:
            ready[-1][1].update(more)
        for number, values in ready:
            for writer in writers:
                writer.write(number, values)
            _count(bad, values)
            _warn(screen, number, values, paths, bad[1])
            screen.show(number, values)
        ready.clear()
        _refuse(bad[0])

    def due() -> bool:
        waiting = bool(pending) and time.monotonic() - begun[0] > SECONDS
        return len(pending) >= every or waiting or first[0]

    def flush() -> None:
        for writer in writers:
            writer.flush()

    return Readings(begin, add, settle, write, due, flush, lambda: (bad[1], bad[2]))


def _single(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers one by one: of a population's [n] the mean (of an index the largest), and each member's own."""
    flat: dict[str, Tensor] = {}
    for name, value in found.items():
        x = value.float()
        flat[name] = x if x.ndim == 0 else x.max() if name == "nonfinite_leaf" else x.mean()
        flat |= {f"{name}/{i}": member for i, member in enumerate(x)} if x.ndim else {}
    return flat


def _speed(rows: list[tuple[int, dict[str, float]]], seconds: float, work: Work | None) -> None:
    """Adds tok_per_sec, tflops and mfu, where the metrics count tokens."""
    for _, values in rows:
        if "tokens" in values:
            values["tok_per_sec"] = values["tokens"] * len(rows) / seconds
            if work is not None:
                values.update(speed(work, values["tok_per_sec"]))


def _refuse(in_a_row: int) -> None:
    """Ends a run that learns nothing any more."""
    if in_a_row >= PATIENCE:
        raise FloatingPointError(
            f"updates were skipped in {in_a_row} steps one after the other, as the loss or its gradient was not finite "
            "or there was nothing to learn from; lower --learning_rate, take --dtype float32, or look at the data, the "
            "rewards and --max_new_tokens. The checkpoints before are whole"
        )


def _count(bad: list[int], values: Mapping[str, float]) -> None:
    """Counts steps that were skipped: in a row, altogether, and all steps."""
    over = values.get("nonfinite_leaf", -1.0) >= 0
    bad[:] = [bad[0] + 1 if over else 0, bad[1] + over, bad[2] + 1]


def _warn(
    screen: Progress, number: int, values: Mapping[str, float], paths: Sequence[str], count: int
) -> None:
    """Says why an update was skipped: the first three times, and ever more seldom after."""
    leaf = int(values.get("nonfinite_leaf", -1))
    if leaf >= 0 and (count <= 3 or count & (count - 1) == 0):
        screen.say(f"step {number}: {_reason(leaf, paths)}, so its update was skipped")


def _reason(leaf: int, paths: Sequence[str]) -> str:
    """What `nonfinite_leaf` stands for, see `stages.stage.ALWAYS`."""
    if leaf < len(paths):
        return f"the gradient of {paths[leaf]} is not finite"
    if leaf == len(paths):
        return "the loss is not finite"
    return (
        "nothing in this batch counts towards the loss (no label, no answer that could be scored, or, with "
        "--mask_truncated, none that ended within --max_new_tokens)"
    )
