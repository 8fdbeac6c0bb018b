"""`intro2llm estimate`: parameters, FLOPs and memory of a training step, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from stages.cli.notice import say_waiting
from stages.run.options.base import ComputeDtype, OptimizerName, check_micro_batches
from stages.run.options.ranges import AtLeast
from stages.run.options.tuning import AdapterSize

if TYPE_CHECKING:
    from stages.run.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """Estimate parameters, FLOPs and memory of one eager training step."""

    config: str | None = None
    """Model configuration: a preset's name, or a JSON file of ModelConfig's fields; None takes
    tiny_config."""
    model_path: str | None = None
    """Model whose configuration is taken, in place of --config: a folder, a name at huggingface.co, or a GGUF
    file."""
    batch_size: Annotated[int, AtLeast(1)] = 16
    """Rows per step."""
    max_length: Annotated[int, AtLeast(1)] = 256
    """Tokens per row."""
    gradient_accumulation: Annotated[int, AtLeast(1)] = 1
    """Number of micro-batches per step; must divide --batch_size."""
    optimizer: OptimizerName = "adamw"
    """Optimizer whose state is counted."""
    dtype: ComputeDtype = "auto"
    """Precision of matrix products."""
    lora: AdapterSize | None = None
    """Train LoRA adapters of this size; None trains every parameter."""
    qlora: bool = False
    """Train LoRA adapters on a base model quantized to four bits (NF4)."""


def run(options: EstimateOptions) -> int:
    """Prints the estimate.

    Returns:
        The exit code.

    Raises:
        ValueError: if two configurations are given, a row is longer than the model's context, or
            --gradient_accumulation does not divide --batch_size.
    """
    say_waiting(f"reading the configuration of {options.model_path or options.config or 'tiny_config'}")
    import torch

    from pure import optim
    from pure.adapt.lora_config import lora_config
    from stages.models import hardware, language_model
    from stages.run import model_config
    from stages.run.estimate import estimate
    from stages.run.optimizer import make_optimizer

    check_micro_batches(options.batch_size, "--batch_size", options.gradient_accumulation)
    if options.model_path and options.config:
        raise ValueError(
            f"--config {options.config} and --model_path {options.model_path} are two configurations; give "
            "one"
        )
    if options.model_path:
        config = language_model.read_config(options.model_path)
    else:
        config = model_config.read_config(options.config, None)
    if options.max_length > config.max_position_embeddings:
        raise ValueError(
            f"--max_length {options.max_length} exceeds the model's max_position_embeddings "
            f"{config.max_position_embeddings}; shorten the rows"
        )
    dtype = hardware.pick_dtype(options.dtype, torch.device("cpu"))
    schedule = optim.constant_schedule(1e-3)
    optimizer = make_optimizer(
        options.optimizer, schedule, weight_decay=0.1, max_grad_norm=1.0, dtype=dtype, updates=1
    )
    preset = options.lora or ("balanced" if options.qlora else None)
    result = estimate(
        config,
        optimizer,
        rows=options.batch_size,
        length=options.max_length,
        dtype=dtype,
        accumulation=options.gradient_accumulation,
        adapters=lora_config(preset) if preset else None,
        quantized=options.qlora,
    )
    print(table(result, options.batch_size * options.max_length))
    return 0


def table(result: Estimate, tokens: int) -> str:
    """Formats an estimate as lines of a table.

    Args:
        result: estimate of one step.
        tokens: tokens per step.
    """
    temporary = "gradients, activations, logits, the new state"
    lines = [
        f"parameters          {result.parameters:>16,}",
        f"trained parameters  {result.trained:>16,}  ({result.trained / result.parameters:.2%})",
        f"FLOPs per token     {result.flops:>16,.0f}",
        f"FLOPs per step      {result.flops * tokens:>16,.0f}  ({tokens:,} tokens)",
        "",
        f"weights             {result.weights / 1e6:>13,.1f} MB",
        f"optimizer state     {result.optimizer / 1e6:>13,.1f} MB",
        f"temporary           {result.rest / 1e6:>13,.1f} MB  ({temporary})",
        f"total               {result.total / 1e6:>13,.1f} MB  (eager; compiled less)",
    ]
    return "\n".join(lines)
