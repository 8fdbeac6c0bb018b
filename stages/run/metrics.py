"""Buffer step metrics on the device, and copy them to the host in batches for the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stages.run.log import Writer
from stages.run.mfu import ModelFlops, speed
from stages.run.progress import Progress
from stages.state import TrainState

MAX_WAIT_SECONDS = 2.0
"""Longest time until buffered steps are read and shown."""

MAX_CONSECUTIVE_SKIPS = 50
"""Consecutive steps with a skipped update after which a run stops."""


class Observe(Protocol):
    """Derives further numbers for the log from a state, as tensors on its device."""

    def __call__(self, state: TrainState, /) -> Mapping[str, Tensor]: ...


class Readings(NamedTuple):
    """Collects the metrics of each step, and writes one line per step.

    Fields:
        begin: () -> None; starts the clock of a step.
        add: (number, state) -> None; buffers the metrics of an issued step on the device.
        settle: () -> None; waits for the buffered steps, reads their metrics and stops the clock.
        write: ({name: value}) -> None; calls `settle`, adds the values to the last step's line, and writes
            all lines.
        is_write_due: () -> bool; True once enough steps, or the oldest for long enough, are buffered.
        flush: () -> None; waits until the lines are on the disk.
        count_skipped: () -> (steps whose update was skipped, steps written).
    """

    begin: Callable[[], None]
    add: Callable[[int, TrainState], None]
    settle: Callable[[], None]
    write: Callable[[Mapping[str, float]], None]
    is_write_due: Callable[[], bool]
    flush: Callable[[], None]
    count_skipped: Callable[[], tuple[int, int]]


class _Pending(NamedTuple):
    """A step whose metrics are still on the device."""

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
    model_flops: ModelFlops | None = None,
    compiling: bool = False,
) -> Readings:
    """Makes the Readings of a run.

    Reading a number waits for the device, which then idles until the host has issued the next step. On a GPU
    up to 16 steps are therefore read at a time. Steps that are read together share one speed.

        tok_per_sec = tokens of a step · steps read / seconds since `begin`
        tflops      = tok_per_sec · FLOPs per token / 10¹²
        mfu         = share of the device's peak, if that is known

    Args:
        writers: get every line.
        screen: shows the last line, and the reason of a skipped update.
        observe: state -> further numbers on the device, such as the learning rate.
        paths: paths of the params' leaves, which `nonfinite_leaf` indexes.
        every: steps read at a time.
        model_flops: FLOPs of a token and peak of the device; None leaves tflops and mfu out.
        compiling: the first step compiles; its line has compile_seconds and no speed.

    Returns:
        Readings.
    """
    pending: list[_Pending] = []
    ready: list[tuple[int, dict[str, float]]] = []
    started: list[float] = []
    is_first = [compiling]
    reported: set[str] = set()  # members of a population whose skipped updates were reported
    skips = [0, 0, 0]  # skipped in a row, skipped in total, steps written

    def begin() -> None:
        if not pending:
            started[:] = [time.monotonic()]

    def add(number: int, state: TrainState) -> None:
        metrics = _flatten_members({**state.metrics, **observe(state)})
        pending.append(_Pending(number, tuple(metrics), torch.stack(list(metrics.values()))))

    def settle() -> None:
        rows = [(step.number, dict(zip(step.names, step.values.tolist(), strict=True))) for step in pending]
        if rows and is_first[0]:
            is_first[0], seconds = False, time.monotonic() - started[0]
            rows[0][1]["compile_seconds"] = seconds
            screen.say(f"compiled in {seconds:.0f} s, the first step included")
        elif rows:
            _add_speed(rows, time.monotonic() - started[0], model_flops)
        ready.extend(rows)
        pending.clear()

    def write(more: Mapping[str, float]) -> None:
        settle()
        if ready:
            ready[-1][1].update(more)
        for number, values in ready:
            for writer in writers:
                writer.write(number, values)
            _count_skips(skips, values)
            _warn(screen, number, values, paths, skips[1])
            _warn_about_members(screen, number, values, paths, reported)
            screen.show(number, values)
        ready.clear()
        _refuse_skips_in_a_row(skips[0])

    def is_write_due() -> bool:
        waiting = bool(pending) and time.monotonic() - started[0] > MAX_WAIT_SECONDS
        return len(pending) >= every or waiting or is_first[0]

    def flush() -> None:
        for writer in writers:
            writer.flush()

    return Readings(begin, add, settle, write, is_write_due, flush, lambda: (skips[1], skips[2]))


def _flatten_members(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flattens metrics to scalars: a population's [n] to its mean and its members.

    `nonfinite_leaf` is the smallest of its members': a step is skipped if the updates of all are.
    """
    flat: dict[str, Tensor] = {}
    for name, value in metrics.items():
        x = value.float()
        if x.ndim == 0:
            flat[name] = x
            continue
        flat[name] = x.min() if name == "nonfinite_leaf" else x.mean()
        flat |= {f"{name}/{i}": member for i, member in enumerate(x)}
    return flat


def _add_speed(
    rows: list[tuple[int, dict[str, float]]], seconds: float, model_flops: ModelFlops | None
) -> None:
    """Adds tok_per_sec, tflops and mfu, where the metrics count tokens."""
    for _, values in rows:
        if "tokens" in values:
            values["tok_per_sec"] = values["tokens"] * len(rows) / seconds
            if model_flops is not None:
                values.update(speed(model_flops, values["tok_per_sec"]))


def _refuse_skips_in_a_row(count: int) -> None:
    """Raises once MAX_CONSECUTIVE_SKIPS updates in a row were skipped."""
    if count >= MAX_CONSECUTIVE_SKIPS:
        raise FloatingPointError(
            f"updates were skipped in {count} consecutive steps, as the loss or its gradient was not finite "
            "or nothing counted towards the loss; lower --learning_rate, use --dtype float32, or "
            "check the data, the rewards and --max_new_tokens. Earlier checkpoints are valid"
        )


def _count_skips(skips: list[int], values: Mapping[str, float]) -> None:
    """Counts skipped steps, in a row and in total, and all steps."""
    skipped = values.get("nonfinite_leaf", -1.0) >= 0
    skips[:] = [skips[0] + 1 if skipped else 0, skips[1] + skipped, skips[2] + 1]


def _warn(
    screen: Progress, number: int, values: Mapping[str, float], paths: Sequence[str], count: int
) -> None:
    """Reports why an update was skipped: at the first three skips, then at the 4th, 8th, 16th, ..."""
    leaf = int(values.get("nonfinite_leaf", -1))
    if leaf >= 0 and (count <= 3 or count & (count - 1) == 0):
        screen.say(f"step {number}: {_reason(leaf, paths)}, so its update was skipped")


def _warn_about_members(
    screen: Progress, number: int, values: Mapping[str, float], paths: Sequence[str], reported: set[str]
) -> None:
    """Reports the first skipped update of each member of a population."""
    for name, value in values.items():
        if name.startswith("nonfinite_leaf/") and value >= 0 and name not in reported:
            reported.add(name)
            member = name.removeprefix("nonfinite_leaf/")
            screen.say(
                f"step {number}: member {member}: {_reason(int(value), paths)}; its update was skipped"
            )


def _reason(leaf: int, paths: Sequence[str]) -> str:
    """The meaning of `nonfinite_leaf`, see `stages.step.STEP_METRICS`."""
    if leaf < len(paths):
        return f"the gradient of {paths[leaf]} is not finite"
    if leaf == len(paths):
        return "the loss is not finite"
    return (
        "nothing in this batch counts towards the loss (no label, no answer that could be scored, or, with "
        "--mask_truncated, none that ended within --max_new_tokens)"
    )
