"""Fold a stage over a pipe, with logs, validation, early stopping, checkpoints and signals.

The numbers are those of `functools.reduce(stage.step, pipe, stage.init(key))`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data_pipes.types import Pipe
from pure import tree
from pure.parallel.group import within
from pure.parallel.rows import gather
from pure.plural import count_noun
from pure.transform.jit import jit
from pure.types import Model, Tree
from stages import population, sweep
from stages.checkpoint import background, checkpoint, directories
from stages.checkpoint.saving import Format
from stages.run import compiler, early_stopping, log, mfu, signals
from stages.run.allocator import keep_freed_memory
from stages.run.early_stopping import BestValidation
from stages.run.jax_step import jax_step
from stages.run.metrics import Observe, Readings, readings
from stages.run.processes import ALONE, Processes, agree, find_cause, share_first
from stages.run.progress import Progress, progress
from stages.run.samples import LogSamples
from stages.run.tensor_parts import join_state, load_state
from stages.run.validation import Validate, numbers_of
from stages.stage import Stage
from stages.state import TrainState

READ_EVERY = 16
"""Steps whose metrics are read at a time on a GPU."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of a run that do not change its numbers, except for patience.

    Args:
        compile: compile the step by regions and donate the old state's memory (that of a population or sweep
            whole, which takes minutes); False runs eagerly.
        backend: "torch", or "jax", which lowers the step and always compiles it (`stages.run.jax_step`).
        save_every: steps between checkpoints; 0 saves only at the end.
        keep_last: checkpoints to keep, besides the best.
        checkpoint_format: "state" or "dcp" (`stages.checkpoint.checkpoint.save`).
        eval_every: steps between validations; 0 validates only at the end.
        patience: validations without improvement before the run stops; 0 never stops it.
        watch: the validation metric that decides what is best; lower is better.
        resume: resume from the newest valid checkpoint; False refuses a folder that has one.
        quiet: print nothing.
        label: the run's name on the screen.
    """

    compile: bool = True
    backend: str = "torch"
    save_every: int = 0
    keep_last: int = 2
    checkpoint_format: Format = "state"
    eval_every: int = 0
    patience: int = 0
    watch: str = "val_loss"
    resume: bool = True
    quiet: bool = False
    label: str = "step"


class Result(NamedTuple):
    """The last state of a run, and why it ended.

    Fields:
        state: the last state.
        status: "complete", "early" (validation stopped improving) or "interrupted" (a signal; the state is
            saved).
        best: the best validation value and its step.
        steps: steps taken by this call.
        signal: the number of the signal that interrupted it, or None.
    """

    state: TrainState
    status: str
    best: BestValidation
    steps: int
    signal: int | None


def run(
    stage: Stage,
    pipe: Pipe,
    folder: str | Path,
    *,
    key: Tensor,
    params: Tree | None = None,
    validate: Validate | None = None,
    fingerprint: Mapping[str, str] | None = None,
    writers: Sequence[Callable[[int], log.Writer]] = (),
    observe: Observe | None = None,
    model_flops: mfu.ModelFlops | None = None,
    processes: Processes = ALONE,
    model: Model | None = None,
    sample: LogSamples | None = None,
    options: RunOptions | None = None,
) -> Result:
    """Folds `stage.step` over `pipe`, from the start or from the newest valid checkpoint of the folder.

    A run that was killed or stopped by a signal and then resumed has the same bits as an uninterrupted one.

    Args:
        stage: of any kind.
        pipe: batches; `pipe[i]` is the batch of step i.
        folder: of the run; made if missing. Holds metrics.jsonl and checkpoints/.
        key: [2] uint32, the root of the run's randomness.
        params: to start from; None lets the stage draw them. Must be given also when resuming, if the stage
            has no `init`; only their structure, shapes and dtypes are used then.
        validate: params -> {name: number}; must give `options.watch`.
        fingerprint: describes stage and pipe (`stages.checkpoint.fingerprint`); resuming with another one is
            refused.
        writers: each gets the step that the run starts from and returns an additional log.Writer.
        observe: state -> further numbers for the log, as tensors on the state's device, such as the learning
            rate.
        model_flops: FLOPs per token and peak of the device, for `tflops` and `mfu`; see `stages.run.mfu`.
        processes: those that take the steps together, with `stage` wrapped by `data_parallel`; only the first
            writes and prints.
        model: of `tensor_parallel`, whose parts the state holds; whole states are saved. None: it has no
            parts.
        sample: logs completions, before the first step and at each validation.
        options: see RunOptions.

    Returns:
        Result.

    Steps:
        1. Load the state and the best validation from a checkpoint, or make new ones.
        2. Open the log after that step, the screen, and the background saver.
        3. Take the steps. After each step: validate, log, save and stop, where due.
        4. Wait for the last save; close the outputs.

    Edge cases: a complete run, and one that stopped early, take no further step.

    Raises:
        ValueError: if the checkpoint is of another stage or pipe, or `resume` is False and there is one.
        FloatingPointError: if the updates of 50 steps in a row, or of most steps, are skipped
            (`stages.step.STEP_METRICS`).
        OSError: if a checkpoint or a line could not be written; earlier checkpoints remain. A background save
            that failed is reported at the next save, or at the end.
    """
    options = options or RunOptions()
    keep_freed_memory()
    folder, quiet = Path(folder), options.quiet or not processes.first
    folder.mkdir(parents=True, exist_ok=True)
    say: Callable[[str], None] = (lambda text: None) if quiet else print
    # 1. State.
    load = partial(checkpoint.load, folder, fingerprint=fingerprint, warn=say, group=processes.group)
    state, best = _begin(stage.init(key, params), folder, options.resume, load, processes, model)
    first = step_of(state)
    # 2. Outputs.
    outputs = []
    if processes.first:
        outputs = [log.json_lines(folder / "metrics.jsonl", first, say), *(make(first) for make in writers)]
    screen = progress(options.label, len(pipe), first, quiet=quiet)
    saver = background.make_saver(
        folder,
        group=processes.group,
        format=options.checkpoint_format,
        fingerprint=fingerprint,
        keep_last=options.keep_last,
        keep_best=1,
    )
    parts = _Parts(
        step=build_step(stage, folder, fingerprint, backend=options.backend, compile=options.compile),
        pipe=pipe,
        readings=readings(
            outputs,
            screen,
            observe=observe or (lambda state: {}),
            paths=tree.paths(state.params),
            every=READ_EVERY if key.device.type == "cuda" else 1,
            model_flops=mfu.share_of(model_flops, processes.size),
            compiling=_is_compiled(options.backend, options.compile),
        ),
        screen=screen,
        saver=saver,
        validate=validate,
        processes=processes,
        model=model,
        sample=sample,
        options=options,
    )
    # 3. and 4. Steps; `_closing` waits and closes.
    with signals.catch_signals(not processes.first) as signals_received, _closing(outputs, screen, saver):
        state, status, best, signal = _fold(parts, state, first, best, signals_received)
    return Result(state, status, best, step_of(state) - first, signal)


def step_of(state: TrainState) -> int:
    """Returns the number of steps of a state; the members of a population have the same."""
    return int(state.step.max())


class _Parts(NamedTuple):
    """Everything that the loop calls."""

    step: Callable[[TrainState, Tree], TrainState]
    pipe: Pipe
    readings: Readings
    screen: Progress
    saver: background.Saver
    validate: Validate | None
    processes: Processes
    model: Model | None
    sample: LogSamples | None
    options: RunOptions


def _begin(
    state: TrainState,
    folder: Path,
    resume: bool,
    load: Callable[[TrainState], checkpoint.Loaded],
    processes: Processes,
    model: Model | None,
) -> tuple[TrainState, BestValidation]:
    """Loads the newest valid checkpoint; the state is new if there is none."""
    has_checkpoint = bool(directories.list_complete(folder))
    if not share_first(processes, has_checkpoint, about="whether there is a checkpoint"):
        return state, BestValidation()
    if not resume:
        raise ValueError(f"{folder} holds checkpoints of an earlier run; resume it, or choose another folder")
    loaded = load_state(load, state, model)
    return loaded.state, early_stopping.from_json(loaded.manifest.metadata.get("early_stopping"))


def _is_compiled(backend: str, compile: bool) -> bool:
    """Reports a run whose first step compiles."""
    return compile or backend == "jax"


def build_step(
    stage: Stage, folder: Path, fingerprint: Mapping[str, str] | None, *, backend: str, compile: bool
) -> Callable[[TrainState, Tree], TrainState]:
    """Builds the step that a run takes, and that its replay takes again.

    Args:
        stage, folder, fingerprint: as in `stages.run.jax_step.jax_step`.
        backend, compile: as in RunOptions.

    Returns:
        (state, batch) -> state; compiled by torch, it writes into the old state's storage. The step of a
        population or sweep is compiled whole, as there are no regions under vmap.
    """
    if backend == "jax":
        return jax_step(stage, folder, fingerprint)
    regions = getattr(stage.step, "func", None) not in (population.step, sweep.step)
    return jit(stage.step, donate=True, regions=regions) if compile else stage.step


def _fold(
    parts: _Parts, state: TrainState, first: int, best: BestValidation, signals_received: list[int]
) -> tuple[TrainState, str, BestValidation, int | None]:
    """Takes steps until the pipe ends, validation stops improving, or a signal arrives at any process."""
    total, options, device = len(parts.pipe), parts.options, state.key.device
    if first:
        parts.screen.say(
            f"resuming from step {first}" if first < total else f"already done: {count_noun(total, 'step')}"
        )
    if _is_out_of_patience(options.patience, best):
        return state, "early", best, None
    if _is_compiled(options.backend, options.compile) and first < total:
        parts.screen.say(compiler.first_step_notice(device, options.backend))
    if parts.sample and not first:
        parts.screen.say(parts.sample(0, gather(state.extra.get("ema", state.params))))
    for number in range(first + 1, total + 1):
        parts.readings.begin()
        batch = _move_to(device, parts.pipe[number - 1])
        state = _step(parts, state, batch, signals_received)
        parts.readings.add(number, state)
        is_due = _is_validation_step(number, total, options.eval_every)
        values = _validate(parts, state, number) if is_due else {}
        if values:
            best = _update_best(parts, number, values, best)
        signal = agree(parts.processes, max(signals_received, default=0))
        status = _status(number, total, options.patience, best, signal)
        if signal and not signals_received:
            parts.screen.say(f"{signals.name_of(signal)} to another process: the run ends after this step")
        is_new_best = bool(values) and best.since == 0
        is_save_due = options.save_every > 0 and number % options.save_every == 0
        saving = bool(status) or is_new_best or is_save_due
        if values or saving or parts.readings.is_write_due():
            parts.readings.write(values)
        if saving:
            _save(parts, state, number, best, values.get(options.watch))
        if status:
            _refuse_skipped(parts, status)
            return state, status, best, signal if status == "interrupted" else None
    return state, "complete", best, None


def _refuse_skipped(parts: _Parts, status: str) -> None:
    """Raises FloatingPointError if the run ends normally but most of its updates were skipped."""
    skipped, steps = parts.readings.count_skipped()
    if status in ("complete", "early") and 2 * skipped > steps:
        raise FloatingPointError(
            f"the updates of {skipped} of {count_noun(steps, 'step')} were skipped, as the loss or its "
            "gradient was not finite or there was nothing to learn from, so the model is not trained; lower "
            "--learning_rate, try --dtype float32, or fix the rewards"
        )


def _step(parts: _Parts, state: TrainState, batch: Tree, signals_received: list[int]) -> TrainState:
    """Takes a step; an error after a signal counts as an interruption, as Ctrl-C also kills the compiler.

    (torchrun sends SIGTERM when another process was killed: then that is the error.)
    """
    try:
        return parts.step(state, batch)
    except Exception:
        if signals_received and find_cause(parts.processes) is None:
            raise KeyboardInterrupt from None
        raise


def _move_to(device: torch.device, batch: Tree) -> Tree:
    """Moves a batch to the state's device."""
    return tree.map(lambda x: x.to(device, non_blocking=True), batch)


def _validate(parts: _Parts, state: TrainState, number: int) -> Mapping[str, float]:
    """Validates the parameters, or their moving average if the stage keeps one; logs samples by them."""
    parts.readings.settle()  # stops the clock, so that validation does not count in tokens per second
    params = gather(state.extra.get("ema", state.params))
    if parts.sample:
        parts.screen.say(parts.sample(number, params))
    if parts.validate is None:
        return {}
    with within(parts.processes.data):
        return numbers_of(parts.validate(params))


def _update_best(
    parts: _Parts, number: int, values: Mapping[str, float], best: BestValidation
) -> BestValidation:
    """Reports a validation, and updates the best one."""
    if parts.options.watch not in values:
        raise ValueError(
            f"run: validate gave {', '.join(values)}, but options.watch is {parts.options.watch!r}"
        )
    best = early_stopping.observe(best, number, values[parts.options.watch])
    shown = " · ".join(f"{name} {value:.4f}" for name, value in values.items())
    parts.screen.say(f"step {number}: {shown}" + (" (best)" if best.since == 0 else ""))
    return best


def _status(number: int, total: int, patience: int, best: BestValidation, signal: int) -> str:
    """Returns the reason why the run ends at this step, or ""."""
    if _is_out_of_patience(patience, best):  # at the last step too, as when the run is started again
        return "early"
    if number == total:
        return "complete"
    return "interrupted" if signal else ""


def _is_out_of_patience(patience: int, best: BestValidation) -> bool:
    """Checks if `patience` validations in a row have not improved; never with patience 0."""
    return 0 < patience <= best.since


def _save(parts: _Parts, state: TrainState, number: int, best: BestValidation, score: float | None) -> None:
    """Flushes the log, then starts saving a checkpoint in the background."""
    parts.readings.flush()
    metadata = {"early_stopping": early_stopping.to_json(best)}
    parts.saver.save(join_state(state, parts.model), step=number, score=score, metadata=metadata)


def _is_validation_step(number: int, total: int, every: int) -> bool:
    """Checks if validation is due: every `every` steps, and after the last."""
    return number == total or (every > 0 and number % every == 0)


@contextmanager
def _closing(outputs: Sequence[log.Writer], screen: Progress, saver: background.Saver) -> Iterator[None]:
    """Waits for the last save and closes the outputs, however the run ends."""
    try:
        yield
        saver.wait()
    finally:
        with suppress(Exception):  # the error that ended the run is raised, not this one
            saver.close()
        screen.close()
        for writer in outputs:
            writer.close()
