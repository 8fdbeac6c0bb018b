"""Table of the subcommands: name, flags, function, help.

Rows name modules that are imported when the subcommand runs, so that the overview answers at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

from stages.run.options.base import TrainOptions
from stages.run.options.pretrain import PretrainOptions
from stages.run.options.tuning import STAGES


class Subcommand(NamedTuple):
    """A row of the table.

    Fields:
        options: "module:class" of its flags.
        run: "module:function" that takes them and returns the exit code.
        help: its line in the overview.
        keeps: pattern of what an interrupted run keeps in --output_dir; "" for nothing.
        own_words: number of words that are its own arguments; `run` takes the rest as they are, as its second
            argument. None takes all.
        joins: several processes may run it together; `run` then also takes `stages.run.processes.Processes`.
    """

    options: str
    run: str
    help: str
    keeps: str = ""
    joins: bool = False
    own_words: int | None = None


CHECKPOINTS = "**/checkpoints/step-*"
"""Pattern of a training run's checkpoints."""

DRY_RUN = "stages.run.dry_run:run"
"""Function that a training stage runs in place of its own with --dry_run."""

SAMPLES = "samples.jsonl"
"""The completions of an evaluation."""


def train_subcommand(kind: type[TrainOptions]) -> Subcommand:
    """Makes the row of a training stage; its help is the first line of the flags' docstring."""
    first = (inspect.getdoc(kind) or "").splitlines()[0].rstrip(".")
    address = f"{kind.__module__}:{kind.__name__}"
    return Subcommand(address, "stages.cli.train:run", first[0].lower() + first[1:], CHECKPOINTS, joins=True)


SUBCOMMANDS: Mapping[str, Subcommand] = MappingProxyType(
    {
        "demo": Subcommand(
            "stages.cli.demo:DemoOptions",
            "stages.cli.demo:run",
            "train a small model on Python's own source through every stage, and evaluate each",
            CHECKPOINTS,
        ),
        "tokenizer": Subcommand(
            "stages.cli.tokenizer:TokenizerOptions",
            "stages.cli.tokenizer:run",
            "train a byte-level BPE tokenizer on text",
        ),
        "pretrain": train_subcommand(PretrainOptions),
        **{name: train_subcommand(kind) for name, kind in STAGES.items()},
        "launch": Subcommand(
            "stages.cli.launch:LaunchOptions",
            "stages.cli.launch:run",
            "run a training stage in several processes on this machine",
            own_words=2,
        ),
        "chat": Subcommand(
            "stages.cli.chat:ChatOptions",
            "stages.cli.chat:run",
            "chat with a fine-tuned model",
        ),
        "serve": Subcommand(
            "stages.cli.serve:ServeOptions",
            "stages.cli.serve:run",
            "serve a model over HTTP: OpenAI's API, and a page to chat with it",
        ),
        "preview": Subcommand(
            "stages.cli.preview:PreviewOptions",
            "stages.cli.preview:run",
            "print one training batch in colour: trained tokens, context, padding",
        ),
        "generate": Subcommand(
            "stages.cli.generate:GenerateOptions",
            "stages.cli.generate:run",
            "continue texts with a trained model",
        ),
        "evaluate": Subcommand(
            "stages.evaluate.options:EvaluateOptions",
            "stages.cli.evaluate:evaluate",
            "evaluate a model: perplexity, multiple choice, programs, answers",
            SAMPLES,
            joins=True,
        ),
        "compare": Subcommand(
            "stages.cli.evaluate:CompareOptions",
            "stages.cli.evaluate:compare",
            "compare two evaluations question by question",
        ),
        "import": Subcommand(
            "stages.cli.convert:ImportOptions",
            "stages.cli.convert:run",
            "convert a published model (GGUF, a name at huggingface.co, a folder) to Hugging Face's layout",
        ),
        "export": Subcommand(
            "stages.cli.convert:ExportOptions",
            "stages.cli.convert:run",
            "write a model in Hugging Face's layout, for JAX, or as a GGUF file for llama.cpp",
        ),
        "merge": Subcommand(
            "stages.cli.convert:MergeOptions",
            "stages.cli.convert:run",
            "merge adapters into their base model",
        ),
        "estimate": Subcommand(
            "stages.cli.estimate:EstimateOptions",
            "stages.cli.estimate:run",
            "estimate parameters, FLOPs and memory of a training step",
        ),
        "exercises": Subcommand(
            "stages.cli.exercises:ExercisesOptions",
            "stages.cli.exercises:run",
            "write the pipeline's functions yourself: start, list, check, show, hint, reset, grade",
            own_words=1,
        ),
        "report": Subcommand(
            "stages.cli.report:ReportOptions",
            "stages.cli.report:run",
            "write the page of one or more runs: curves, gains, completions, flags",
        ),
        "card": Subcommand(
            "stages.cli.card:CardOptions",
            "stages.cli.card:run",
            "write the model card of a run: data, flags, figures with intervals, commands",
        ),
        "push": Subcommand(
            "stages.cli.push:PushOptions",
            "stages.cli.push:run",
            "push a model to the Hugging Face hub",
        ),
        "replay": Subcommand(
            "stages.cli.replay:ReplayOptions",
            "stages.cli.replay:run",
            "recompute one step of a past run and compare every bit",
        ),
        "completion": Subcommand(
            "stages.cli.completion:CompletionOptions",
            "stages.cli.completion:run",
            "print a script that completes subcommands and flags in bash or zsh",
        ),
    }
)
"""Name -> row, in the order of the overview."""


def resolve(address: str) -> Any:
    """Imports the object at "module:name"."""
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)
