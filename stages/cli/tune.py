"""What `intro2llm sft | reward | dpo | grpo | ppo` have in common: from a model and rows to the next
model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.run.options.tuning import RewardOptions, TuningOptions, stage_name

if TYPE_CHECKING:
    from stages.online import Rollout, Update
    from stages.run.loop import Outcome
    from stages.run.tuning import Tuning
    from stages.stage import Stage


def run(
    options: TuningOptions, *, before: Callable[[Tuning], object] | None = None
) -> tuple[Outcome, Tuning]:
    """Builds, runs or resumes, and writes final_model once the run is complete.

    Args:
        options: the flags.
        before: called once all is built, before the first step.

    Returns:
        The outcome, and what it was made with.

    Steps:
        1. Refuse another run's folder, and one that is in use.
        2. Data, and everything built on it.
        3. config.json, so that the run can be resumed.
        4. The run.
        5. final_model.
    """
    print(f"loading {options.model_path}", flush=True)  # before torch, which takes seconds
    from stages.checkpoint.lock import alone
    from stages.run import config_file, tuning

    folder = Path(options.output_dir)
    with alone(folder):
        # 1. Refuse.
        for line in config_file.refuse_other_flags(folder, options):
            print(line)
        # 2. Build.
        built = tuning.build(options)
        # 3. Write down.
        config_file.write(folder, resolved(options, built))
        if before:
            before(built)
        # 4. Run.
        outcome = _run(options, built)
        # 5. Finish.
        if outcome.status == "interrupted":
            print(f"saved at step {int(outcome.state.step)}; the same command goes on from there")
        else:
            save_final(folder, outcome, built, options)
    return outcome, built


def resolved(options: TuningOptions, built: Tuning) -> dict[str, Any]:
    """What goes into config.json."""
    import torch

    return {
        "stage": stage_name(options),
        "options": dataclasses.asdict(options),
        "model": dataclasses.asdict(built.base.model.config),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def save_final(folder: Path, outcome: Outcome, built: Tuning, options: TuningOptions) -> None:
    """Writes final_model: of a run that stopped early the best weights, else the last; averaged where there
    are any."""
    from stages.checkpoint import checkpoint
    from stages.models import language_model, reward_model
    from stages.online import policy_of
    from stages.run import adapter

    state, step = outcome.state, int(outcome.state.step)
    best = checkpoint.best(folder) if outcome.status == "early" else None
    if best is not None:
        state, step = checkpoint.load(best, state, warn=print)[:2]
    params = policy_of(state.extra.get("ema", state.params))
    final = built.base._replace(params=params)
    if isinstance(options, RewardOptions):
        path = reward_model.save(folder / "final_model", adapter.without(built.adapter, final))
    elif built.adapter is not None:
        texts = language_model.tokenizer_files(final)
        path = adapter.save(folder / "final_model", built.adapter, params, built.base.tokenizer, texts)
    else:
        path = language_model.save(folder / "final_model", final)
    print(f"final model: {path} (step {step})")


def _run(options: TuningOptions, built: Tuning) -> Outcome:
    """Runs the loop with the flags that concern it."""
    from stages.run import compiler, log, loop

    lacking = compiler.missing() if options.compile and built.key.device.type == "cpu" else None
    if lacking:
        print(lacking)
    folder = Path(options.output_dir)
    writers: list[Callable[[int], log.Writer]] = []
    if options.wandb:
        writers.append(lambda step: log.wandb(folder, resolved(options, built), project=options.wandb or ""))
    if options.tensorboard:
        writers.append(partial(log.tensorboard, folder))
    return loop.run(
        built.stage,
        built.pipe,
        folder,
        key=built.key,
        params=built.params,
        validate=built.validate,
        fingerprint=identity(built),
        writers=writers,
        observe=built.observe,
        options=loop.RunOptions(
            compile=options.compile and not lacking,
            save_every=options.save_every,
            keep_last=options.keep_last,
            eval_every=options.eval_every,
            patience=options.patience,
            resume=options.resume,
        ),
    )


def identity(built: Tuning) -> dict[str, str]:
    """The fingerprint of a run: its stage, pipe, tokenizer, rewards, and the model that it begins with."""
    from stages.checkpoint.fingerprint import fingerprint

    parts = fingerprint(known(built.stage), built.pipe, built.base.tokenizer)
    return {**parts, **built.judged_by, **built.made_from}


class Known(NamedTuple):
    """The parts of an online stage that its fingerprint names one by one; of the rewards `Tuning.judged_by`
    tells."""

    rollout: Rollout
    update: Update


def known(stage: Stage) -> Any:
    """Returns the stage as its fingerprint sees it: without the Python functions that score text."""
    return stage if stage.parts is None else Known(stage.parts.rollout, stage.parts.update)
