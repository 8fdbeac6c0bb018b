"""`intro2llm pretrain`: from text to a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from stages.options import PretrainOptions

if TYPE_CHECKING:
    from stages.run.loop import Outcome
    from stages.run.pretraining import Corpus, Experiment

INTERRUPTED = 128
"""Exit code of an interrupted run, plus the signal's number, as shells count: 143 after SIGTERM. The state is saved."""


def main(arguments: Sequence[str]) -> int:
    """Parses the flags and trains."""
    options = tyro.cli(PretrainOptions, prog="intro2llm pretrain", args=list(arguments))
    outcome = train(options)[0]
    return INTERRUPTED + outcome.signal if outcome.signal else 0


def train(
    options: PretrainOptions, *, before: Callable[[Experiment, Corpus], object] | None = None
) -> tuple[Outcome, Experiment, Corpus]:
    """Prepares the data, runs or resumes, and writes final_model once the run is complete.

    Args:
        options: the flags.
        before: called once all is built, before the first step.

    Returns:
        The outcome, and what it was made with.
    """
    from stages.run import pretraining

    folder = Path(options.output_dir)
    corpus = pretraining.prepare(options)
    experiment = pretraining.build(options, corpus)
    write_config(folder, pretraining.resolved(options, experiment.config))
    if before:
        before(experiment, corpus)
    outcome = run_experiment(options, experiment, corpus)
    if outcome.status != "interrupted":
        save_final(folder, outcome, experiment, corpus)
    return outcome, experiment, corpus


def run_experiment(options: PretrainOptions, experiment: Experiment, corpus: Corpus) -> Outcome:
    """The loop, with the flags that concern it."""
    from stages.run import compiler, log, loop, pretrained, pretraining
    fingerprint = lambda *a: None  # noqa: E731

    folder = Path(options.output_dir)
    lacking = compiler.missing() if options.compile and experiment.key.device.type == "cpu" else None
    if lacking:
        print(lacking)
    config = pretraining.resolved(options, experiment.config)
    writers: list[Callable[[int], log.Writer]] = []
    if options.wandb:
        writers.append(lambda step: log.wandb(folder, config, project=options.wandb or ""))
    if options.tensorboard:
        writers.append(partial(log.tensorboard, folder))
    params = pretrained.load(options.model_path).params if options.model_path else None
    return loop.run(
        experiment.stage,
        experiment.pipe,
        folder,
        key=experiment.key,
        params=params,
        validate=experiment.validate,
        fingerprint=fingerprint(experiment.stage, experiment.pipe, corpus.tokenizer),
        writers=writers,
        observe=partial(pretraining.learning_rate, schedule=experiment.schedule),
        options=loop.RunOptions(
            compile=options.compile and not lacking,
            save_every=options.save_every,
            keep_last=options.keep_last,
            eval_every=options.eval_every,
            patience=options.patience,
            resume=options.resume,
        ),
    )


def save_final(folder: Path, outcome: Outcome, experiment: Experiment, corpus: Corpus) -> None:
    """Writes final_model: the averaged weights where there are any, else the last."""
    from stages.run import pretrained

    params = outcome.state.extra.get("ema", outcome.state.params)
    pretrained.save(folder / "final_model", pretrained.Pretrained(experiment.model, params, corpus.tokenizer))
    print(f"final model: {folder / 'final_model'}")


def write_config(folder: Path, config: Mapping[str, object]) -> None:
    """Writes config.json."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_options(folder: Path) -> PretrainOptions:
    """Reads the flags of a past run back from its config.json.

    Raises:
        ValueError: if there is none, or it is of another version.
    """
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))["options"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        raise ValueError(f"{path}: expected the config.json of a pretraining run; give the run's folder") from None
    known = {field.name for field in dataclasses.fields(PretrainOptions)}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"{path}: unknown flags {', '.join(unknown)}; the run was made by another version")
    return PretrainOptions(**fields)
