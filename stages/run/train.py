"""Train from options: `train(options)` for pretraining and every stage after it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pure.plural import count_noun
from stages.run.options.base import RunFlags
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import OnlineOptions, TuningOptions, stage_name

if TYPE_CHECKING:
    from pure.types import Model
    from stages.run.experiment import Experiment, Say
    from stages.run.log import Writer
    from stages.run.loop import Result
    from stages.run.processes import Processes
    from stages.state import TrainState


FEW_STEPS = 10
"""A run of fewer steps, because its data has no more, is told what makes it longer."""

INTERRUPTED = 128
"""An interrupted run exits with this plus the signal's number, as in shells: 143 after SIGTERM."""


class Outcome(NamedTuple):
    """A run after its last step.

    Fields:
        experiment: the run as built from the flags.
        state: the last state.
        status: "complete", "early" (validation stopped improving) or "interrupted" (by a signal; the state
            is saved).
        signal: the number of the signal that interrupted it, or None.
        final_model: folder of the trained model; None for an interrupted run.
    """

    experiment: Experiment
    state: TrainState
    status: str
    signal: int | None
    final_model: Path | None


def train(
    options: PretrainOptions | TuningOptions,
    *,
    before_first_step: Callable[[Experiment], object] | None = None,
    say: Say = print,
    processes: Processes | None = None,
) -> Outcome:
    """Builds a run, takes its steps or resumes it, and writes final_model once it is complete.

    Args:
        options: the flags of any stage, such as `SFTOptions(model_path="runs/pretrain")`.
        before_first_step: called with the Experiment, after config.json is written.
        say: prints a message to the user.
        processes: those that compute the run together (`stages.run.processes.joined`); None is one alone.

    Returns:
        Outcome.

    Steps:
        1. Refuse flags that cannot work, processes that were started with others, and a folder that is in use
           or has another run, before any writing.
        2. Build the data, and all that depends on it; on many processes, the first prepares the data.
        3. Write config.json, from which the run can be resumed and replayed.
        4. Take the steps.
        5. Write final_model.

    Raises:
        ValueError, FileNotFoundError: for flags and files that cannot work, naming them.
        FloatingPointError, OSError: as `stages.run.loop.run`.
    """
    if isinstance(options, PretrainOptions):
        say(f"preparing {options.data_path} in {options.output_dir}")
    else:
        say(f"loading {options.model_path}")
    sys.stdout.flush()  # torch is imported now, which takes seconds
    from stages.checkpoint import lock
    from stages.models import hardware
    from stages.run import build, config_file, final_model, parallel
    from stages.run.experiment import say_nothing
    from stages.run.processes import ALONE, connect

    processes = processes or ALONE
    say = say if processes.first else say_nothing
    folder, stage = Path(options.output_dir), stage_name(type(options))
    # 1. Refuse.
    build.check(options, processes)
    if options.backend == "jax":
        import pure.interop.jax  # noqa: F401

        options = dataclasses.replace(options, device="cpu")  # torch's tensors are on the CPU
    parallel.compare_flags(processes, dataclasses.asdict(options))
    if options.tensor_parallel > 1:  # the model is built for its group
        processes = connect(processes, hardware.pick_device(options.device), options.tensor_parallel)
    with lock.lock_folder(folder) if processes.first else nullcontext():
        if processes.first:
            config_file.refuse_other_stage(folder, stage)
            for line in config_file.refuse_other_flags(folder, options):
                say(line)
        if processes.size > 1:
            say(
                parallel.describe_split(
                    processes.size,
                    options.batch_size,
                    tensor=options.tensor_parallel,
                    shard=options.shard,
                    noun="prompt" if isinstance(options, OnlineOptions) else "row",
                )
            )
        # 2. Build.
        experiment, processes = parallel.join(build.build(options, say, processes), processes, options.shard)
        # 3. config.json.
        config = config_file.describe_run(options, experiment.base.model.config, stage)
        if processes.first:
            config_file.write(folder, config)
        if before_first_step:
            before_first_step(experiment)
        # 4. Steps.
        take = partial(_take_steps, experiment, folder, options, config, say, processes)
        result = _record_steps(take, folder, say) if processes.first else take()
        # 5. final_model.
        if result.status == "interrupted":
            say(f"saved at step {int(result.state.step)}; the same command resumes from there")
            return Outcome(experiment, result.state, result.status, result.signal, None)
        path = final_model.write(
            folder, result, experiment.save_model, say, processes, _cut_model(experiment, processes)
        )
    return Outcome(experiment, result.state, result.status, result.signal, path)


def _describe_few_steps(steps: int) -> str:
    """Says what makes a short run longer: a few rows of a file are packed into one or two of --max_length."""
    return (
        f"a run of only {count_noun(steps, 'step')}, as the data has no more; --max_steps, --num_epochs or a "
        "smaller --batch_size gives more"
    )


def _cut_model(experiment: Experiment, processes: Processes) -> Model | None:
    """The model whose parts the processes have; None where each has the whole."""
    return None if processes.tensor is None else experiment.base.model


def _record_steps(take: Callable[[], Result], folder: Path, say: Say) -> Result:
    """Runs the loop as a session of the run."""
    from stages.run import sessions, signals

    with sessions.record_session(folder, say) as note_end:
        result = take()
        reason = signals.name_of(result.signal) if result.signal else ""
        note_end(result.status, int(result.state.step.max()), reason)
    return result


def _take_steps(
    experiment: Experiment,
    folder: Path,
    flags: RunFlags,
    config: dict[str, Any],
    say: Say,
    processes: Processes,
) -> Result:
    """Runs the loop; eagerly on a CPU without a C++ compiler."""
    from stages.checkpoint import directories
    from stages.run import compiler, loop
    from stages.run.experiment import fingerprint_of
    from stages.run.samples import log_samples

    device, own_folder = experiment.key.device, folder if processes.first else None
    compiled = flags.compile and flags.backend == "torch"
    no_compiler = compiler.missing_tool() if compiled and device.type == "cpu" else None
    if no_compiler:
        say(no_compiler)
    has_few_steps = not config["options"]["max_steps"] and len(experiment.pipe) < FEW_STEPS
    if has_few_steps and not directories.list_complete(folder):
        say(_describe_few_steps(len(experiment.pipe)))
    return loop.run(
        experiment.stage,
        experiment.pipe,
        folder,
        key=experiment.key,
        params=experiment.params,
        validate=experiment.validate,
        fingerprint=fingerprint_of(experiment),
        writers=_writers(folder, flags, config),
        observe=experiment.observe,
        model_flops=experiment.model_flops,
        processes=processes,
        model=_cut_model(experiment, processes),
        sample=experiment.sample and partial(log_samples, sample=experiment.sample, folder=own_folder),
        options=loop.RunOptions(
            compile=compiled and not no_compiler,
            backend=flags.backend,
            save_every=flags.save_every,
            keep_last=flags.keep_last,
            checkpoint_format=flags.checkpoint_format,
            eval_every=flags.eval_every,
            patience=flags.patience,
            resume=flags.resume,
        ),
    )


def _writers(folder: Path, flags: RunFlags, config: dict[str, Any]) -> list[Callable[[int], Writer]]:
    """Functions from the last step to a writer, for --wandb and --tensorboard."""
    from stages.run import log

    writers: list[Callable[[int], Writer]] = []
    if flags.wandb:
        project = flags.wandb
        writers.append(lambda step: log.wandb(folder, config, project=project))
    if flags.tensorboard:
        writers.append(partial(log.tensorboard, folder))
    return writers
