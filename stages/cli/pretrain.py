"""`intro2llm pretrain`: from text to a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stages.run.options.pretrain import PretrainOptions

if TYPE_CHECKING:
    import torch

    from pure.types import Tree
    from stages.run import log
    from stages.run.data.corpus import Corpus
    from stages.run.loop import Outcome
    from stages.run.pretraining import Experiment

INTERRUPTED = 128
"""Exit code of an interrupted run, plus the signal's number, as shells count: 143 after SIGTERM. The state is
saved."""


def train(
    options: PretrainOptions, *, before: Callable[[Experiment, Corpus], object] | None = None
) -> tuple[Outcome, Experiment, Corpus]:
    """Prepares the data, runs or resumes, and writes final_model once the run is complete.

    Args:
        options: the flags.
        before: called once all is built, before the first step.

    Returns:
        The outcome, and what it was made with.

    Steps:
        1. Refuse what cannot work, before anything is written: flags, another run's folder, a folder that is
           in use.
        2. Data, and everything built on it.
        3. config.json, so that the run can be resumed and replayed.
        4. The run.
        5. final_model.
    """
    print(
        f"preparing {options.data_path} in {options.output_dir}", flush=True
    )  # before torch, which takes seconds
    from stages.checkpoint.lock import alone
    from stages.run import config_file, pretraining
    from stages.run.data import corpus

    folder = Path(options.output_dir)
    # 1. Refuse.
    vocab_size = pretraining.check(options).vocab_size
    with alone(folder):
        for line in config_file.refuse_other_flags(folder, options):
            print(line)
        # 2. Build.
        data = corpus.prepare(options, vocab_size)
        experiment = pretraining.build(options, data)
        if experiment.told:
            print(experiment.told)
        # 3. Write down.
        config = pretraining.resolved(options, experiment.config)
        config_file.refuse_other_model(folder, config["model"])
        config_file.write(folder, config)
        if before:
            before(experiment, data)
        # 4. Run.
        outcome = run_experiment(options, experiment, data)
        # 5. Finish.
        if outcome.status == "interrupted":
            print(f"saved at step {int(outcome.state.step)}; the same command goes on from there")
        else:
            save_final(folder, outcome, experiment, data, options)
    return outcome, experiment, data


def run_experiment(options: PretrainOptions, experiment: Experiment, data: Corpus) -> Outcome:
    """Runs the loop with the flags that concern it; without a C++ compiler eagerly, which it says.

    Args:
        options: the flags.
        experiment: what they build.
        data: the corpus, whose tokenizer is part of the run's fingerprint.
    """
    from stages.checkpoint.fingerprint import fingerprint
    from stages.models import hardware, language_model
    from stages.run import compiler, loop, mfu, pretraining

    device = experiment.key.device
    lacking = compiler.missing() if options.compile and device.type == "cpu" else None
    if lacking:
        print(lacking)
    dtype = hardware.pick_dtype(options.dtype, device)
    return loop.run(
        experiment.stage,
        experiment.pipe,
        options.output_dir,
        key=experiment.key,
        params=starting_params(options, device),
        validate=experiment.validate,
        fingerprint={
            **fingerprint(experiment.stage, experiment.pipe, data.tokenizer),
            **language_model.describe_model_at(options.model_path),
        },
        writers=_writers(options, experiment),
        observe=partial(pretraining.learning_rate, schedule=experiment.schedule),
        work=mfu.work(experiment.model, options.max_length, dtype, device),
        options=loop.RunOptions(
            compile=options.compile and not lacking,
            save_every=options.save_every,
            keep_last=options.keep_last,
            eval_every=options.eval_every,
            patience=options.patience,
            resume=options.resume,
        ),
    )


def starting_params(options: PretrainOptions, device: torch.device, *, always: bool = False) -> Tree | None:
    """The weights to begin with, in float32, or None to draw them.

    Args:
        options: the flags.
        device: to put them on.
        always: False gives None when there is a checkpoint to go on from; then the weights are not needed.
    """
    import torch

    from pure import tree
    from stages.checkpoint import directories
    from stages.models import language_model

    if not options.model_path or (directories.complete(Path(options.output_dir)) and not always):
        return None
    params = language_model.load(options.model_path, dtype=torch.float32).params
    return tree.map(lambda x: x.to(device), params)


def save_final(
    folder: Path, outcome: Outcome, experiment: Experiment, data: Corpus, options: PretrainOptions
) -> None:
    """Writes final_model: of a run that stopped early the best weights, else the last; averaged where there
    are any.

    Args:
        folder: of the run.
        outcome: its last state, and how it ended.
        experiment: what the flags built.
        data: whose tokenizer is saved with the model.
        options: the flags; special tokens and chat templates of --model_path are kept.
    """
    from stages.checkpoint import checkpoint
    from stages.models import language_model

    state, step = outcome.state, int(outcome.state.step)
    best = checkpoint.best(folder) if outcome.status == "early" else None
    if best is not None:
        state, step = checkpoint.load(best, state, warn=print)[:2]
    params = state.extra.get("ema", state.params)
    final = language_model.Pretrained(experiment.model, params, data.tokenizer)
    if options.model_path:
        final = language_model.with_tokenizer_of(final, language_model.load(options.model_path))
    path = language_model.save(folder / "final_model", final)
    why = (
        f", the best; validation stopped improving, and the run ended at {int(outcome.state.step)}"
        if best
        else ""
    )
    print(f"final model: {path} (step {step}{why})")


def _writers(options: PretrainOptions, experiment: Experiment) -> list[Callable[[int], log.Writer]]:
    """W&B and TensorBoard, if asked for."""
    from stages.run import log, pretraining

    folder = Path(options.output_dir)
    writers: list[Callable[[int], log.Writer]] = []
    if options.wandb:
        config = pretraining.resolved(options, experiment.config)
        writers.append(lambda step: log.wandb(folder, config, project=options.wandb or ""))
    if options.tensorboard:
        writers.append(partial(log.tensorboard, folder))
    return writers
