"""`intro2llm estimate`: parameters, FLOPs and memory of a training step, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from stages.run.options.ranges import AtLeast

if TYPE_CHECKING:
    from stages.run.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """Estimate parameters, FLOPs and memory of one eager training step."""

    config: str = "tiny_config"
    """Model configuration: a preset's name, or a JSON file of ModelConfig's fields."""
    model_path: str | None = None
    """Model whose configuration is taken instead: a folder, a name at huggingface.co, or a GGUF file."""
    batch_size: Annotated[int, AtLeast(1)] = 16
    """Rows per step."""
    max_length: Annotated[int, AtLeast(1)] = 256
    """Tokens per row."""
    gradient_accumulation: Annotated[int, AtLeast(1)] = 1
    """Number of micro-batches per step; must divide --batch_size."""
    optimizer: Literal["adamw", "muon", "lion", "sgd"] = "adamw"
    """Optimizer whose state is counted."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of matrix products."""
    lora: Literal["conservative", "balanced", "aggressive"] | None = None
    """Train LoRA adapters of this size; None trains every parameter."""
    qlora: bool = False
    """Train LoRA adapters on a base model quantized to four bits (NF4)."""


def run(options: EstimateOptions) -> int:
    """And prints the table.

    Raises:
        ValueError: if a row is longer than the model's context, or the pieces do not divide the batch.
    """
    import torch

    from pure import optim
    from pure.adapt.lora_config import lora_config
    from stages.models import hardware, language_model
    from stages.run import shape
    from stages.run.estimate import estimate
    from stages.run.optimizer import make_optimizer

    told = (
        language_model.read_config(options.model_path)
        if options.model_path
        else shape.read(options.config, None)
    )
    if options.max_length > told.max_position_embeddings:
        raise ValueError(
            f"--max_length {options.max_length} exceeds the model's max_position_embeddings "
            f"{told.max_position_embeddings}; shorten the rows"
        )
    if options.batch_size < 1 or options.batch_size % options.gradient_accumulation:
        raise ValueError(
            f"--gradient_accumulation {options.gradient_accumulation} does not divide --batch_size {options.batch_size}"
        )
    dtype = hardware.pick_dtype(options.dtype, torch.device("cpu"))
    name = options.lora or ("balanced" if options.qlora else None)
    found = estimate(
        told,
        make_optimizer(
            options.optimizer, optim.constant_schedule(1e-3), weight_decay=0.1, max_grad_norm=1.0, dtype=dtype
        ),
        rows=options.batch_size,
        length=options.max_length,
        dtype=dtype,
        accumulation=options.gradient_accumulation,
        adapters=lora_config(name) if name else None,
        quantized=options.qlora,
    )
    print(table(found, options.batch_size * options.max_length))
    return 0


def table(found: Estimate, tokens: int) -> str:
    """The lines that are printed; a step has so many tokens."""
    lines = [
        f"parameters            {found.parameters:>16,}",
        f"of which are trained  {found.trained:>16,}  ({found.trained / found.parameters:.2%})",
        f"FLOPs a token         {found.flops:>16,.0f}",
        f"FLOPs a step          {found.flops * tokens:>16,.0f}  ({tokens:,} tokens)",
        "",
        f"weights               {found.weights / 1e6:>13,.1f} MB",
        f"optimizer's state     {found.optimizer / 1e6:>13,.1f} MB",
        f"the step itself       {found.rest / 1e6:>13,.1f} MB  (gradients, activations, logits, the new state)",
        f"together              {found.total / 1e6:>13,.1f} MB  (eager; compiled less)",
    ]
    return "\n".join(lines)
