"""The loop: the fold of a stage over a pipe, with everything around it that touches the world.

Progress, metrics.jsonl, validation, early stopping, checkpoints, and a signal that saves before it ends the run. The
numbers are those of `functools.reduce(stage.step, pipe, stage.init(key))`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.transform.jit import jit
from pure.types import Tree
from stages.run import checkpoint, early_stopping, log
from stages.run.progress import Progress, progress
from stages.stage import Stage
from stages.state import TrainState

Validate = Callable[[Tree], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run behaves, apart from what it computes.

    Args:
        compile: compile the step by regions, donating the old state's memory; False runs eagerly.
        save_every: steps between checkpoints; 0 saves only at the end.
        keep_last: checkpoints to keep, besides the best.
        eval_every: steps between validations; 0 validates only at the end.
        patience: validations without improvement before the run stops; 0 never stops it.
        watch: the validation metric that decides what is best; lower is better.
        resume: go on from the newest good checkpoint; False refuses a folder that has one.
        quiet: print nothing.
        label: the run's name on the screen.
    """

    compile: bool = True
    save_every: int = 0
    keep_last: int = 2
    eval_every: int = 0
    patience: int = 0
    watch: str = "val_loss"
    resume: bool = True
    quiet: bool = False
    label: str = "step"


class Outcome(NamedTuple):
    """What a run came to.

    Fields:
        state: the last state.
        status: "complete", "early" (validation stopped improving) or "interrupted" (a signal; the state is saved).
        best: the best validation value and its step.
        steps: steps taken by this call.
        signal: the number of the signal, or None.
    """

    state: TrainState
    status: str
    best: early_stopping.Patience
    steps: int
    signal: int | None


def run(
    stage: Stage,
    pipe: Sequence[Tree],
    folder: str | Path,
    *,
    key: Tensor,
    params: Tree | None = None,
    validate: Validate | None = None,
    fingerprint: Mapping[str, str] | None = None,
    writers: Sequence[Callable[[int], log.Writer]] = (),
    observe: Callable[[TrainState], Mapping[str, float]] | None = None,
    options: RunOptions | None = None,
) -> Outcome:
    """Folds `stage.step` over `pipe`, from the start or from the newest good checkpoint of the folder.

    Stopped by a signal, killed, or run twice, it comes to the same bits as a run that was never interrupted.

    Args:
        stage: any.
        pipe: batches; `pipe[i]` is the batch of step i.
        folder: of the run; made if missing. Holds metrics.jsonl and checkpoints/.
        key: [2] uint32, the root of the run's randomness.
        params: to start from; None lets the stage draw them. Not used when resuming.
        validate: params -> {name: number}; must give `options.watch`.
        fingerprint: what the stage and the pipe are (`stages.run.fingerprint`); another is refused when resuming.
        writers: each makes a further log.Writer, given the step that the run begins at.
        observe: state -> further numbers for the log, such as the learning rate.
        options: see RunOptions.

    Returns:
        Outcome.

    Steps:
        1. The state: from a checkpoint, or new.
        2. What earlier validations said, from the log.
        3. The fold; after each step: log, validate, save, stop.
        4. The last checkpoint.

    Raises:
        ValueError: if the checkpoint is of another stage or pipe, or `resume` is False and there is one.
    """
    options = options or RunOptions()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # 1. State.
    state = _begin(stage, folder, key, params, fingerprint, options)
    first = int(state.step)
    # 2. History.
    history = [(r["step"], r[options.watch]) for r in log.read_lines(folder / "metrics.jsonl") if options.watch in r]
    best = early_stopping.replay(pair for pair in history if pair[0] <= first)
    # 3. Fold.
    metrics = folder / "metrics.jsonl"
    parts = _Parts(
        step=jit(stage.step, donate=True, regions=True) if options.compile else stage.step,
        pipe=pipe,
        writers=[log.json_lines(metrics, first), *(writer(first) for writer in writers)],
        screen=progress(options.label, len(pipe), first, quiet=options.quiet),
        saver=partial(checkpoint.save, folder, fingerprint=fingerprint, keep_last=options.keep_last, keep_best=1),
        validate=validate,
        observe=observe or (lambda state: {}),
        options=options,
    )
    with _closing(parts), _signals() as caught:
        state, status, best = _fold(parts, state, best, caught)
        # 4. Last checkpoint.
        _save(parts, state, best)
    return Outcome(state, status, best, int(state.step) - first, caught[0] if caught else None)


class _Parts(NamedTuple):
    """What the fold works with."""

    step: Callable[[TrainState, Tree], TrainState]
    pipe: Sequence[Tree]
    writers: list[log.Writer]
    screen: Progress
    saver: Callable[..., object]
    validate: Validate | None
    observe: Callable[[TrainState], Mapping[str, float]]
    options: RunOptions


def _begin(
    stage: Stage, folder: Path, key: Tensor, params: Tree | None, fingerprint: Mapping | None, options: RunOptions
) -> TrainState:
    """The newest good checkpoint, or a new state."""
    state = stage.init(key, params)
    if checkpoint.latest(folder) is None:
        return state
    if not options.resume:
        raise ValueError(f"{folder} holds checkpoints of an earlier run; resume it, or choose another output_dir")
    return checkpoint.load(folder, state, fingerprint=fingerprint, warn=print).state


def _fold(
    parts: _Parts, state: TrainState, best: early_stopping.Patience, caught: list[int]
) -> tuple[TrainState, str, early_stopping.Patience]:
    """Step after step, until the pipe ends, validation has had enough, or a signal came."""
    total, options, device, begun = len(parts.pipe), parts.options, state.key.device, time.monotonic()
    for number in range(int(state.step) + 1, total + 1):
        state = parts.step(state, _on(device, parts.pipe[number - 1]))
        begun = _note(parts, state, number, begun)
        if parts.validate and _due(number, total, options.eval_every):
            best = _validated(parts, state, number, best)
            begun = time.monotonic()
            if 0 < options.patience <= best.since:
                return state, "early", best
        if caught:
            return state, "interrupted", best
        if options.save_every and number % options.save_every == 0 and number < total:
            _save(parts, state, best)
    return state, "complete", best


def _on(device: torch.device, batch: Tree) -> Tree:
    """The batch, on the state's device."""
    return tree.map(lambda x: x.to(device), batch)


def _note(parts: _Parts, state: TrainState, number: int, begun: float) -> float:
    """Writes a step's numbers down; reading them waits for the step to end, so that the clock is true."""
    values = {name: float(value) for name, value in state.metrics.items()}
    now = time.monotonic()
    if "tokens" in values:
        values["tok_per_sec"] = values["tokens"] / (now - begun)
    values |= parts.observe(state)
    _write(parts, number, values)
    if values["nonfinite_leaf"] >= 0:
        path = tree.paths(state.params)[int(values["nonfinite_leaf"])]
        parts.screen.say(f"step {number}: the gradient of {path} is not finite, so this batch was passed over")
    parts.screen.show(number, values)
    return now


def _validated(parts: _Parts, state: TrainState, number: int, best: early_stopping.Patience) -> early_stopping.Patience:
    """Validates, and keeps the state if it is the best yet."""
    assert parts.validate is not None
    params = state.extra.get("ema", state.params)
    values = dict(parts.validate(params))
    _write(parts, number, values)
    best = early_stopping.observe(best, number, values[parts.options.watch])
    shown = " · ".join(f"{name} {value:.4f}" for name, value in values.items())
    parts.screen.say(f"step {number}: {shown}" + (" (best)" if best.since == 0 else ""))
    if best.since == 0:
        _save(parts, state, best)
    return best


def _save(parts: _Parts, state: TrainState, best: early_stopping.Patience) -> None:
    """Starts a checkpoint in the background."""
    step = int(state.step)
    parts.saver(state, step=step, score=best.best if best.best_step == step else None)


def _write(parts: _Parts, number: int, values: Mapping[str, float]) -> None:
    """To every writer."""
    for writer in parts.writers:
        writer.write(number, values)


def _due(number: int, total: int, every: int) -> bool:
    """Every so often, and at the end."""
    return number == total or (every > 0 and number % every == 0)


@contextmanager
def _closing(parts: _Parts) -> Iterator[None]:
    """Closes what is open, however the run ends."""
    try:
        yield
    finally:
        parts.screen.close()
        for writer in parts.writers:
            writer.close()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Notes SIGTERM and SIGINT instead of dying of them; the step ends, the state is saved. Only in the main thread."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    names = (signal.SIGTERM, signal.SIGINT)
    old = [signal.signal(name, lambda number, frame: caught.append(number)) for name in names]
    try:
        yield caught
    finally:
        for name, handler in zip(names, old, strict=True):
            signal.signal(name, handler)
