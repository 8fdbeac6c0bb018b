"""Flags of every training stage, each defined once, with its range beside its type and its help below.

Plain values only, so that they are written to `config.json` and read back. A flag of the last base class
comes first in --help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pure.plural import count_noun
from stages.run.options.groups import DeviceFlags, RowFlags, WorkerFlags
from stages.run.options.ranges import AtLeast, Decay, Share

OptimizerName = Literal[
    "adamw",
    "muon",
    "normuon",
    "soap",
    "lion",
    "nadamw",
    "cautious_adamw",
    "cautious_decay_adamw",
    "ademamix",
    "adafactor",
    "lamb",
    "sgd",
]
ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class BatchFlags:
    """Size and number of batches."""

    batch_size: Annotated[int, AtLeast(1)] = 16
    """Rows, pairs or prompts per step."""
    num_epochs: Annotated[int, AtLeast(1)] = 1
    """Number of epochs: times that each row is trained on."""
    max_steps: Annotated[int | None, AtLeast(1, "leave it out for --num_epochs")] = None
    """Number of steps, in place of --num_epochs."""
    max_length: Annotated[int, AtLeast(1)] = 256
    """Tokens per row; longer rows are cut into several or truncated."""


@dataclass(frozen=True, kw_only=True)
class OptimizerFlags:
    """Optimizer and learning rate."""

    learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Peak learning rate."""
    warmup: Annotated[float, AtLeast(0)] = 0.05
    """Warm-up steps; below 1, a share of all optimizer updates."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "linear"
    """Learning rate schedule after the warm-up."""
    final_learning_rate: Annotated[float, AtLeast(0)] = 0.1
    """Learning rate at the end of the schedule, as a share of the peak."""
    optimizer: OptimizerName = "adamw"
    """Optimizer; muon and normuon update the matrices of the layers, and AdamW all other parameters; the
    learning rate of lamb is relative to the norm of each parameter."""
    weight_decay: Annotated[float, AtLeast(0)] = 0.0
    """Weight decay of matrices, scaled by the learning rate (sgd: added to the gradient); none for norms,
    biases and embeddings."""
    max_grad_norm: Annotated[float, AtLeast(0)] = 1.0
    """Clip gradients to this global norm; 0 disables clipping."""
    gradient_accumulation: Annotated[int, AtLeast(1)] = 1
    """Number of micro-batches per step, to save memory; must divide --batch_size."""
    noise_scale: bool = False
    """Estimate the gradient noise scale while training: the batch size, in rows, above which more rows bring
    little. Compares the micro-batches of a step, at least 2."""
    clip_per_sample: Annotated[float, AtLeast(0)] = 0.0
    """Clip the gradient of each row's mean loss (each pair's, each group's) to this norm before they are
    added, as in DP-SGD; 0 disables it."""
    dp_noise: Annotated[float, AtLeast(0)] = 0.0
    """Standard deviation of the noise of DP-SGD, as a factor of the norm --clip_per_sample. The privacy that
    a run spends is pure.transform.dp_sgd.epsilon."""
    ema: Decay = None
    """Decay of an exponential moving average of the weights, such as 0.999; final_model is then the
    average."""


@dataclass(frozen=True, kw_only=True)
class RunFlags(DeviceFlags):
    """Device, validation, checkpoints and logs."""

    dtype: ComputeDtype = "auto"
    """Precision of matrix products; weights stay in float32. auto: bfloat16 where the processor supports
    it."""
    backend: Literal["torch", "jax"] = "torch"
    """Library that computes the step; jax lowers it and compiles it by XLA (pip install 'intro2llm[jax]').
    A run may go on with the other."""
    compile: bool = True
    """Compile the step; on a CPU this needs a C++ compiler, and takes 1 to 3 minutes the first time."""
    shard: Literal["none", "state", "layers"] = "none"
    """On several processes: each holds the whole state (none), or its rows of it, which takes their share of
    the memory, and gathers params once a step (state) or layer by layer (layers). A run may go on with
    another."""
    tensor_parallel: Annotated[int, AtLeast(1)] = 1
    """Number of processes that share the model, each with its heads and channels of every layer and its part
    of the vocabulary; groups of this size split the batches. A run may go on with another number."""
    save_every: Annotated[int, AtLeast(0)] = 100
    """Steps between checkpoints; 0 saves only at the end."""
    keep_last: Annotated[int, AtLeast(1)] = 2
    """Number of checkpoints to keep, besides the best."""
    checkpoint_format: Literal["state", "dcp"] = "state"
    """Files of the checkpoints: state, which Flax reads; dcp, those of torch.distributed.checkpoint, which
    other tools read. Any number of processes resumes from either."""
    eval_every: Annotated[int, AtLeast(0)] = 0
    """Steps between validations; 0 validates only at the end."""
    patience: Annotated[int, AtLeast(0)] = 0
    """Stop early after this many validations without improvement; 0 disables early stopping."""
    resume: bool = True
    """Resume from the newest valid checkpoint in --output_dir; --no_resume refuses a folder with
    checkpoints."""
    wandb: str | None = None
    """Weights & Biases project to log to; WANDB_MODE=offline needs no network."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""


@dataclass(frozen=True, kw_only=True)
class PathFlags:
    """Paths of the data and of the run."""

    data_path: str = "embedded"
    """Training data: JSONL, JSON, CSV, Parquet or Arrow files, a folder of them, or a data set's name; for
    pretraining also plain text. "embedded" needs no download."""
    output_dir: str = "runs/train"
    """Folder of the run: config.json, metrics.jsonl, checkpoints, final_model."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunFlags, WorkerFlags, OptimizerFlags, BatchFlags, RowFlags, PathFlags):
    """Flags of every training stage."""


@dataclass(frozen=True, kw_only=True)
class SampleFlags:
    """Samples of the model's text while it trains."""

    sample_prompt: tuple[str, ...] = ()
    """Texts that the model completes greedily before the first step and at each validation; completions.jsonl
    and the run's page show how the completions change."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropyFlags:
    """Flags of stages that train on the next token."""

    label_smoothing: Share = 0.0
    """Label smoothing: share of each target that is spread over the vocabulary."""


def check_training_flags(options: TrainOptions) -> None:
    """Checks flags that depend on each other, of any training stage.

    Raises:
        ValueError: if the batch is not cut into equal micro-batches, --patience has no validations to count,
            or the embedded data is to be read in part; it names the flags and the fix.
    """
    check_micro_batches(options.batch_size, "--batch_size", options.gradient_accumulation)
    check_halves(options.batch_size, f"--batch_size {options.batch_size}", options)
    check_clipping(options)
    if options.backend == "jax" and options.device not in ("auto", "cpu"):
        raise ValueError(
            f"--backend jax --device {options.device}: tensors stay on the CPU, and JAX picks its own device "
            "(the environment variable JAX_PLATFORMS); use --device cpu"
        )
    if options.patience and not options.eval_every:
        raise ValueError(
            "--patience counts validations, and --eval_every 0 makes none before the end; set both"
        )
    for name, value, usual in (("split", options.split, "train"), ("subset", options.subset, None)):
        if options.data_path == "embedded" and value != usual:
            raise ValueError(f"--{name} {value}: the embedded data is one data set; leave --{name} out")


def check_halves(rows: int, name: str, flags: OptimizerFlags) -> None:
    """Checks that --noise_scale has two micro-batches to compare.

    Args:
        rows: rows of the batch.
        name: what has so many rows, for the message, such as --batch_size 7.
        flags: noise_scale and gradient_accumulation.

    Raises:
        ValueError: if there is one micro-batch, and it has no halves.
    """
    if flags.noise_scale and flags.gradient_accumulation == 1 and rows % 2:
        raise ValueError(
            f"--noise_scale compares two halves of a batch, and {name} has none; take an even number of "
            "rows, or a --gradient_accumulation that divides it"
        )


def check_clipping(flags: OptimizerFlags) -> None:
    """Checks that noise has a bound, and that gradients are not both clipped and measured.

    Args:
        flags: clip_per_sample, dp_noise and noise_scale.

    Raises:
        ValueError: for --dp_noise or --noise_scale that contradict --clip_per_sample.
    """
    if flags.dp_noise and not flags.clip_per_sample:
        raise ValueError(
            f"--dp_noise {flags.dp_noise} is in units of --clip_per_sample, which is 0; set both, such as "
            "--clip_per_sample 1"
        )
    if flags.noise_scale and flags.clip_per_sample:
        raise ValueError(
            "--noise_scale and --clip_per_sample both compute the gradient of a step; leave one of them out"
        )


def check_micro_batches(rows: int, name: str, count: int) -> None:
    """Checks that a batch is cut into equal micro-batches.

    Args:
        rows: rows of the batch.
        name: name of the batch size, for the message, such as --batch_size.
        count: micro-batches, --gradient_accumulation.

    Raises:
        ValueError: if `count` does not divide `rows`; the message has the nearest smaller divisor.
    """
    if rows % count:
        near = max(n for n in range(1, count + 1) if rows % n == 0)
        raise ValueError(
            f"--gradient_accumulation {count} does not divide {name} {rows}: a batch is cut into "
            f"equal micro-batches; --gradient_accumulation {near} would"
        )


def check_rows(flags: OptimizerFlags, rows: int, name: str, size: int) -> None:
    """Checks that every process gets rows of every micro-batch.

    Args:
        flags: gradient_accumulation and noise_scale.
        rows: rows of a batch.
        name: of these rows, for messages, such as "--batch_size 8".
        size: number of processes.

    Raises:
        ValueError: for fewer rows than processes.
    """
    if rows < size:
        raise ValueError(
            f"{name}: {count_noun(rows, 'row')} for {count_noun(size, 'process', 'processes')}; give at "
            "least one row a process, or start fewer"
        )
    parts = max(flags.gradient_accumulation, 2 if flags.noise_scale else 1)
    if rows // parts < size:
        raise ValueError(
            f"{name} in {parts} micro-batches (--gradient_accumulation {flags.gradient_accumulation}"
            f"{', --noise_scale' if flags.noise_scale else ''}) leaves {count_noun(rows // parts, 'row')} "
            f"for {count_noun(size, 'process', 'processes')}, which split each micro-batch; accumulate less, "
            "as they save the same memory"
        )
