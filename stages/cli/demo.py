"""`intro2llm demo`: every training stage of a small language model, in minutes on two cores.

Pretraining on text that ships with Python, then fine-tuning, preferences and reinforcement learning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from stages.cli.train import write_card, write_page
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.ranges import Above, AtLeast, Seed
from stages.run.train import INTERRUPTED, Outcome, train
from stages.teach import overlay

if TYPE_CHECKING:
    from pure.types import Tree
    from stages.run.experiment import Experiment

PROMPTS = ("def __init__(self, ", '    """Return the ', "The following example ")
"""Prompts that the model continues before and after pretraining."""

BATCH_SIZE, LENGTH = 16, 256
"""Rows of a step of pretraining, and tokens of a row."""

TOKENS_SHOWN = 48
"""Tokens of each continuation."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Train a small model on Python's own source: tokenizer, pretraining, SFT, DPO, GRPO and PPO."""

    output_dir: str = "runs/demo"
    """Folder of the run; run again, the demo resumes there."""
    max_steps: Annotated[int, AtLeast(1)] = 600
    """Pretraining steps of 4,096 tokens each; a budget in tokens, so that every machine computes the same."""
    ladder: bool = True
    """Run the stages after pretraining as well: sft, dpo, grpo and ppo."""
    ladder_scale: Annotated[float, Above(0)] = 1.0
    """Fraction of those stages' steps to run."""
    config: str = "tiny_config"
    """Model configuration: a preset's name, or a JSON file of ModelConfig's fields."""
    data_path: str = "embedded"
    """Text for pretraining: a file, a folder, JSONL, Parquet, or a data set's name; "embedded" is Python's
    own source."""
    seed: Seed = 0
    """Random seed; the same seed gives the same numbers."""
    compile: bool = True
    """Compile the step, if there is a C++ compiler."""
    with_: str | None = None
    """Folder of `intro2llm exercises start`; the functions solved there are used in place of ours."""


def run(options: DemoOptions) -> int:
    """Runs the stages that have no result yet, and prints the results of all.

    Returns:
        The exit code.
    """
    folder = Path(options.output_dir)
    print(f"the demo trains a small model in {folder}", flush=True)  # before torch, which takes seconds
    later = options.ladder_scale if options.ladder else 0.0
    steps, compile = options.max_steps, options.compile
    print(
        describe_duration(folder, config=options.config, steps=steps, later=later, compile=compile),
        flush=True,
    )
    share = describe_share(overlay.find_installed())
    print(share, end="\n" if share else "")
    code = _run_pretraining(partial(train, pretrain_options(options)), folder)
    if not code and options.ladder:
        scale = options.ladder_scale
        code = _run_later_stages(folder, seed=options.seed, compile=options.compile, scale=scale)
    if not code:
        print(share, end="\n" if share else "")
    return code


def describe_duration(folder: Path, *, config: str, steps: int, later: float, compile: bool) -> str:
    """Says how long the parts of a demo that are left take on this processor; measures it for a moment.

    Args:
        folder: of the run, which may have parts of it.
        config: a preset's name, or a JSON file.
        steps: of pretraining.
        later: fraction of the later stages' steps; 0 for none.
        compile: compile the steps.

    Returns:
        A line.

    Raises:
        ValueError, FileNotFoundError: if `config` is no configuration.
    """
    import torch

    from data_pipes import files
    from pure.nn.transformer import transformer
    from stages.checkpoint import directories
    from stages.models import hardware
    from stages.run import duration
    from stages.run.model_config import read_config

    if torch.cuda.is_available():
        return "its time on a GPU was not measured"
    sizes = read_config(config, None)
    done, ladder = directories.list_complete(folder), folder / "ladder.json"
    left = max(0, steps - (directories.step_of(done[0]) if done else 0))
    stages_left = 4 - len(files.read_json(ladder)) if ladder.exists() else 4
    dtype = hardware.pick_dtype("auto", torch.device("cpu"))
    plan = duration.Plan(
        transformer(sizes),
        length=LENGTH,
        tokens=BATCH_SIZE * LENGTH,
        steps=0 if (folder / "results.json").exists() else left,
        later=later * stages_left / 4,
        compiled=compile,
        dtype=dtype,
    )
    speed = duration.measure_products(sizes.hidden_size, sizes.intermediate_size, plan.tokens, dtype)
    seconds = duration.estimate_seconds(plan, speed)
    return duration.describe_estimate(seconds, dtype, torch.get_num_threads())


def describe_share(served: overlay.Served | None) -> str:
    """Says how many of the functions are the learner's; "" without `--with`.

    Example:
        >>> describe_share(overlay.Served({"pure.loss.dpo": ("dpo_loss",)}, ("dpo_loss",), 60, ()))
        '1 of 60 exercises is yours: dpo_loss'
    """
    if served is None:
        return ""
    count, names = len(served.exercises), ", ".join(served.exercises)
    verb = "is" if count == 1 else "are"
    return f"{count} of {served.total} exercises {verb} yours" + (f": {names}" if names else "")


def pretrain_options(options: DemoOptions) -> PretrainOptions:
    """Returns the flags of `intro2llm pretrain` for the demo's pretraining."""
    return PretrainOptions(
        config=options.config,
        data_path=options.data_path,
        held_out=0.1,
        output_dir=options.output_dir,
        max_steps=options.max_steps,
        batch_size=BATCH_SIZE,
        max_length=LENGTH,
        optimizer="muon",
        learning_rate=4e-3,
        warmup=0.03,
        schedule="linear",
        final_learning_rate=0.0,
        weight_decay=0.1,
        save_every=100,
        eval_every=0,
        seed=options.seed,
        compile=options.compile,
    )


def table(results: Mapping[str, float]) -> str:
    """Formats the bits per byte of the model and of gzip and xz.

    Args:
        results: bits per byte of "model", "gzip", "xz", and of "guess", which gives all tokens the same
            probability.

    Example:
        >>> print(table({"model": 1.4, "gzip": 2.0, "xz": 1.6, "guess": 3.5}))
        held-out text                bits per byte
        all tokens equally likely            3.500
        gzip -9                              2.000
        xz -9e                               1.600
        trained model                        1.400  (0.875 of xz)
    """
    rows = (
        ("all tokens equally likely", "guess"),
        ("gzip -9", "gzip"),
        ("xz -9e", "xz"),
        ("trained model", "model"),
    )
    lines = [f"{label:<28} {results[name]:>13.3f}" for label, name in rows]
    share = results["model"] / results["xz"]
    return "\n".join([f"{'held-out text':<28} bits per byte", *lines]) + f"  ({share:.3f} of xz)"


def _run_pretraining(train_model: Callable[..., Outcome], folder: Path) -> int:
    """Runs pretraining, or prints its saved result."""
    from data_pipes import files

    path = folder / "results.json"
    if not path.exists():
        return _pretrain(train_model, folder)
    results = files.read_json(path)
    if missing := {"guess", "gzip", "xz", "model"} - results.keys():
        raise ValueError(
            f"{path}: {', '.join(sorted(missing))} is missing; delete the file, and run the demo again"
        )
    print(
        f"{folder}: pretraining is complete; delete the folder, or choose another --output_dir, to train "
        "again\n"
    )
    print(table(results))
    return 0


def _run_later_stages(folder: Path, *, seed: int, compile: bool, scale: float) -> int:
    """Runs and evaluates the stages after pretraining, and prints the table of their gains."""
    from stages.cli import ladder
    from stages.run import plot

    start = time.monotonic()
    results = []
    stages = ladder.demo_stages(folder, seed=seed, compile=compile, scale=scale)
    for stage in stages:
        print(f"\n=== {stage.name}")
        result = ladder.run_stage(stage, train, folder / "ladder.json")
        if isinstance(result, int):
            return INTERRUPTED + result
        write_card(stage.options.output_dir, print)
        write_page(stage.options.output_dir, print)
        results.append((stage, result))
    print(f"\n{ladder.table(results)}")
    curves = plot.plot_demo_stages(folder, [stage.name for stage in stages])
    write_page(folder, print)
    print(f"\nthese stages took {time.monotonic() - start:.0f} s; curves: {curves}")
    print(f"chat with the model: intro2llm chat --model_path {folder / 'grpo'}")
    return 0


def _pretrain(train_model: Callable[..., Outcome], folder: Path) -> int:
    """Trains, evaluates, and prints continuations before and after."""
    from data_pipes import files
    from stages.run import plot, validation

    start = time.monotonic()
    untrained: dict[str, float] = {}
    outcome = train_model(
        before_first_step=lambda experiment: untrained.update(_evaluate_untrained(experiment, folder))
    )
    if outcome.signal:
        return INTERRUPTED + outcome.signal
    _print_continuations("after training", outcome.state.params, outcome.experiment)
    print("compressing the held-out text with gzip and xz")
    compressed = validation.compression_rates((folder / "data" / "held_out.txt").read_bytes())
    results = {"model": _last_value(folder, "val_bpb"), **compressed._asdict(), **untrained}
    print(f"\n{table(results)}")
    curves = plot.plot_curves(folder)
    files.write_json(folder / "results.json", results)
    write_card(folder, print)
    write_page(folder, print)
    print(f"\n{folder}: {time.monotonic() - start:.0f} s; curves: {curves}; model: {folder / 'final_model'}")
    print(f"continue texts with the model: intro2llm generate --model_path {folder} --prompt 'import '")
    return 0


def _evaluate_untrained(experiment: Experiment, folder: Path) -> dict[str, float]:
    """Prints continuations of the untrained model, and returns the bits per byte of equally likely tokens."""
    from stages.checkpoint import directories
    from stages.run.data import corpus
    from stages.stage import fold_in_name

    model, data = experiment.base.model, corpus.reopen(folder)
    if not directories.list_complete(folder):
        params = model.init(fold_in_name(experiment.key, "init"))
        _print_continuations("before training", params, experiment)
    tokens = len(data.held_out.tokens) - 1
    return {"guess": tokens * math.log2(model.config.vocab_size) / data.held_out_bytes}


def _print_continuations(title: str, params: Tree, experiment: Experiment) -> None:
    """Prints continuations of PROMPTS."""
    from pure import random
    from pure.generation.sampling import Sampling
    from stages.cli.generate import GenerateOptions, generate_texts

    print(f"\n--- {title}")
    temperature, top_p = GenerateOptions.temperature, GenerateOptions.top_p
    sampling = Sampling(TOKENS_SHOWN, temperature=temperature, top_p=top_p)
    pretrained = experiment.base._replace(params=params)
    texts = generate_texts(pretrained, PROMPTS, sampling, key=random.key(0))
    for prompt, text in zip(PROMPTS, texts, strict=True):
        print(f"> {prompt}{text}\n")


def _last_value(folder: Path, name: str) -> float:
    """Returns the last value of a metric in the log; raises ValueError if there is none."""
    from stages.run.log import read_lines

    path = folder / "metrics.jsonl"
    values = [float(row[name]) for row in read_lines(path) if name in row]
    if not values:
        raise ValueError(
            f"{path}: expected {name} in the line of the last step, and no line has it; the log is damaged: "
            f"delete {folder}, and run the demo again"
        )
    return values[-1]
