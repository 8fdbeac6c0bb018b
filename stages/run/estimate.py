"""Estimate the parameters, FLOPs and memory of a training step, without allocating them.

The step runs once on fake tensors, which have shapes but no data. Peak memory is the largest number of bytes
alive at one moment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pure import random, tree
from pure.adapt.lora import lora
from pure.adapt.lora_config import LoRAConfig
from pure.adapt.qlora import map_matrices
from pure.config import ModelConfig
from pure.nn.nf4 import BLOCK, NF4, SUPERBLOCK
from pure.nn.transformer import transformer
from pure.transform.memory import peak
from pure.types import GradientTransformation, ParamSpec
from stages.run.mfu import flops_per_token
from stages.sft import sft


class Estimate(NamedTuple):
    """Parameters, FLOPs and memory of a training step.

    Fields:
        parameters: number of all parameters of the model, without adapters.
        trained: number of the trained parameters.
        flops: FLOPs per token, forward and backward.
        weights: bytes of all parameters, frozen ones included.
        optimizer: bytes of the optimizer's state.
        rest: peak bytes of gradients, copies in the compute dtype, activations and logits.
    """

    parameters: int
    trained: int
    flops: float
    weights: int
    optimizer: int
    rest: int

    @property
    def total(self) -> int:
        """Peak bytes of an eager step."""
        return self.weights + self.optimizer + self.rest


def estimate(
    config: ModelConfig,
    optimizer: GradientTransformation,
    *,
    rows: int,
    length: int,
    dtype: torch.dtype,
    accumulation: int = 1,
    adapters: LoRAConfig | None = None,
    quantized: bool = False,
) -> Estimate:
    """Computes the peak memory of a step of supervised learning.

    Args:
        config: configuration of the model.
        optimizer: optimizer of the trained parameters.
        rows: B, rows of a batch.
        length: T, tokens of a row.
        dtype: compute dtype; a frozen base is stored in it.
        accumulation: micro-batches per step.
        adapters: train these over a frozen base; None trains every parameter.
        quantized: the base's matrices are NF4.

    Returns:
        Estimate, of an eager step. (A compiled one needs less for activations.)

    Raises:
        ValueError: if the options do not fit the model.
    """
    model = plain = transformer(config)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        key = random.key(0)
        base = tree.map(
            lambda spec: torch.empty(spec.shape, dtype=dtype if adapters else spec.dtype), model.spec
        )
        if adapters is not None:
            base = map_matrices(_empty_nf4, base) if quantized else base
            model = lora(model, base, **vars(adapters))
        params = tree.map(_empty_parameter, model.spec) if adapters is not None else base
        batch = {
            "tokens": torch.zeros(rows, length, dtype=torch.int64),
            "labels": torch.zeros(rows, length, dtype=torch.int64),
            "batch_position": torch.arange(rows),
        }
        stage = sft(model, optimizer, compute=dtype, accumulation=accumulation)
        state = stage.init(key, params)
        weights = tree.nbytes(state.params) + (tree.nbytes(base) if adapters is not None else 0)
        with torch.enable_grad():
            rest = peak(stage.step, state, batch)
    return Estimate(
        tree.count(plain.spec),
        tree.count(model.spec),
        flops_per_token(plain, length),
        weights,
        tree.nbytes(state.opt_state),
        rest,
    )


def _empty_parameter(spec: ParamSpec) -> Tensor:
    """An uninitialized parameter."""
    return torch.empty(spec.shape, dtype=spec.dtype)


def _empty_nf4(x: Tensor) -> NF4:
    """An uninitialized NF4 matrix of the same shape."""
    blocks = -(-x.numel() // BLOCK)
    return NF4(
        torch.empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8),
        torch.empty(blocks, dtype=torch.uint8),
        torch.empty(-(-blocks // SUPERBLOCK)),
        torch.empty(()),
    )
