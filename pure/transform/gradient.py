"""Gradient: how a stage computes its gradient, and what else it measures on the way.

Accumulation, clipping per example, the noise scale of the gradient: each looks at gradients of parts of the
batch before they are added. A stage takes one of them (`stages.stage.stage(..., gradient=)`).

Shape letters: B batch, M micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from torch import Tensor

from pure.transform.accumulate import Accumulated, Loss, accumulate
from pure.types import Tree


class Compute(Protocol):
    """Gradient of a batch, and the next memory: see the fields of `Gradient`."""

    def __call__(
        self, loss: Loss, params: Tree, batch: Tree, key: Tensor | None, memory: Tree, scale: Tensor | None, /
    ) -> tuple[Accumulated, Tree]: ...


class Gradient(NamedTuple):
    """A way to compute a stage's gradient, as a pair of pure functions and the names of what they measure.

    The loss is an argument, so that every stage can bind its own: `sft(model, optimizer, gradient=...)`.

    Fields:
        init: params -> memory, a tree of tensors, kept in `state.extra["gradient"]`; {} for no memory.
        compute: (loss, params, batch, key, memory, scale) -> (Accumulated, memory). `key` [2] is the step's;
            `scale` [] is the loss scale of float16, or None, see `pure.transform.accumulate.accumulate`. A
            step that is skipped, because a number is not finite, keeps the memory that it had.
        metrics: names of the metrics [] that `compute` adds to those of the loss, as plain tensors.
    """

    init: Callable[[Tree], Tree]
    compute: Compute
    metrics: tuple[str, ...] = ()


def accumulation(parts: int = 1) -> Gradient:
    """Return the Gradient of the summed loss, computed in micro-batches.

    Args:
        parts: M, >= 1, must divide B.

    Raises:
        ValueError: as `pure.transform.accumulate.accumulate`.

    Example:
        >>> import torch
        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(2.0), {}
        >>> batch = {"x": torch.tensor([1.0, 4.0])}
        >>> result, memory = accumulation(2).compute(loss, torch.tensor(1.0), batch, None, {}, None)
        >>> result.grads, memory
        (tensor(5.), {})
    """
    accumulate(_no_loss, parts)  # refuses parts now, and not in the first step
    return Gradient(_no_memory, partial(_accumulation, parts))


def is_accumulation(gradient: Gradient) -> bool:
    """Check if a Gradient is that of `accumulation`, which reads no norm and no other number of gradients.

    Example:
        >>> is_accumulation(accumulation(2))
        True
    """
    return getattr(gradient.compute, "func", None) is _accumulation


def _accumulation(
    parts: int,
    loss: Loss,
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    memory: Tree,
    scale: Tensor | None,
) -> tuple[Accumulated, Tree]:
    """Accumulates, and remembers nothing."""
    return accumulate(loss, parts)(params, batch, key, scale), memory


def _no_memory(params: Tree) -> Tree:
    """The memory of a Gradient that has none."""
    del params
    return {}


def _no_loss(params: Tree, batch: Tree, key: Tensor | None, /) -> tuple:
    """Stands for a loss that is not called."""
    raise AssertionError("not called")
