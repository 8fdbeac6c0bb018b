"""Estimate the parameters, FLOPs and memory of a training step, without allocating them.

The step runs once on fake tensors, which have shapes but no data. Peak memory is the largest number of bytes
alive at one moment.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pure import random, tree
from pure.adapt.lora import lora
from pure.adapt.lora_config import LoRAConfig
from pure.adapt.qlora import map_matrices
from pure.config import ModelConfig
from pure.nn.nf4 import BLOCK, NF4, SUPERBLOCK
from pure.nn.transformer import transformer
from pure.types import GradientTransformation, ParamSpec, Tree
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


def peak(function: Callable, *args: Tree) -> int:
    """Runs a function, and returns the peak bytes of the tensors that it allocates.

    Args:
        function: a function of trees of tensors, fake or real.
        args: arguments of the function; their own tensors do not count.
    """
    tracker = _AllocationTracker()
    with tracker:
        function(*args)
    return tracker.peak


class _AllocationTracker(TorchDispatchMode):
    """Adds the bytes of storages that operations allocate, and subtracts those that are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.current = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        inputs = {_storage_id(x) for x in tree.leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree.leaves(out):
            if isinstance(x, Tensor) and (key := _storage_id(x)) not in self.alive and key not in inputs:
                storage = x.untyped_storage()
                self.alive[key] = storage.nbytes()
                self.current += storage.nbytes()
                weakref.finalize(storage, self.on_freed, key)
        self.peak = max(self.peak, self.current)
        return out

    def on_freed(self, key: int) -> None:
        """Subtracts a storage that was freed."""
        self.current -= self.alive.pop(key, 0)


def _storage_id(x: Tensor) -> int:
    """The address of the C++ object of the storage, which fake tensors have as well."""
    return x.untyped_storage()._cdata


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
