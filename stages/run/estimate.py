"""Estimate the parameters, FLOPs and memory of a training step, without allocating them.

The step runs once on fake tensors, which have shapes and no numbers; the bytes that are alive at each moment
are added up.
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
    """Numbers of a training step.

    Fields:
        parameters: all of them.
        trained: those that are trained.
        flops: per token, forward and backward.
        weights: bytes of all parameters, frozen ones among them.
        optimizer: bytes of the optimizer's state.
        rest: bytes of gradients, copies in the products' dtype, activations and logits.
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
        config: shape of the model.
        optimizer: of the trained parameters.
        rows: B, rows of a batch.
        length: T, tokens of a row.
        dtype: compute dtype; a frozen base is stored in it.
        accumulation: pieces of a batch.
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
            base = map_matrices(_node, base) if quantized else base
            model = lora(model, base, **vars(adapters))
        params = tree.map(_empty, model.spec) if adapters is not None else base
        batch = {
            "tokens": torch.zeros(rows, length, dtype=torch.int64),
            "labels": torch.zeros(rows, length, dtype=torch.int64),
            "batch_position": torch.arange(rows),
        }
        made = sft(model, optimizer, compute=dtype, accumulation=accumulation)
        state = made.init(key, params)
        held = tree.nbytes(state.params) + (tree.nbytes(base) if adapters is not None else 0)
        with torch.enable_grad():
            most = peak(made.step, state, batch)
    return Estimate(
        tree.count(plain.spec),
        tree.count(model.spec),
        flops_per_token(plain, length),
        held,
        tree.nbytes(state.opt_state),
        most,
    )


def peak(function: Callable, *args: Tree) -> int:
    """Runs a function, and counts the bytes of tensors made inside it and alive at the same time, at most.

    Args:
        function: of trees of tensors, fake or real.
        args: what it is given; these do not count.
    """
    watch = _Watch()
    with watch:
        function(*args)
    return watch.most


class _Watch(TorchDispatchMode):
    """Adds up the storages that operations make, and takes away those that are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {_place(x) for x in tree.leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree.leaves(out):
            if isinstance(x, Tensor) and (place := _place(x)) not in self.alive and place not in given:
                storage = x.untyped_storage()
                self.alive[place] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.gone, place)
        self.most = max(self.most, self.now)
        return out

    def gone(self, place: int) -> None:
        """A storage was freed."""
        self.now -= self.alive.pop(place, 0)


def _place(x: Tensor) -> int:
    """The address of the storage's own record, which fake tensors have as well."""
    return x.untyped_storage()._cdata


def _empty(spec: ParamSpec) -> Tensor:
    """A parameter without numbers."""
    return torch.empty(spec.shape, dtype=spec.dtype)


def _node(x: Tensor) -> NF4:
    """One matrix in four bits, without numbers."""
    blocks = -(-x.numel() // BLOCK)
    return NF4(
        torch.empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8),
        torch.empty(blocks, dtype=torch.uint8),
        torch.empty(-(-blocks // SUPERBLOCK)),
        torch.empty(()),
    )
