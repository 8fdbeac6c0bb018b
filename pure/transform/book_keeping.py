"""Recording of every use of a parameter in a loss: its input, and the gradient of its output.

A matrix W that is used as y = x Wᵀ has the gradient Σ_t d_tᵀ x_t, d = ∂loss/∂y. With x and d of every use,
the gradient of each example, its norm, and any weighted sum of them follow without another backward pass, and
without the gradients themselves. Vectors (scales, biases) are expanded to a copy per example before they are
used, so that autograd gives each example's gradient.

The loss is any function: the operations that it calls on its params are seen by a mode of torch. Those that
are known (products, lookups, elementwise operations, norms) are recorded; any other refuses, so that no use
is overlooked.

Shape letters: B examples, R rows of the model's input (R = B, or k B where an example has k rows), T tokens,
I input width, O output width.

Bu et al., "Differentially Private Optimization on Large Model at Small Cost", 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.transform.accumulate import Loss, Metric, check_sums
from pure.transform.example_rows import UnknownUseError, rows_of
from pure.transform.grad import reaches_others
from pure.transform.jit import outside
from pure.transform.modes import activations_kept
from pure.transform.recorder import Copies, Receive, Recorder, Use
from pure.types import Tree


class Recorded(NamedTuple):
    """Result of a recorded forward and backward pass.

    Fields:
        sum, count, metrics: those of the loss.
        sums, counts: [B] the loss and the count of each example alone; None if the batch has no weights, or
            the loss does not honour them.
        uses: of the matrices, in the order of the forward pass.
        vectors: {leaf: [B, ...] gradient of each example}, of leaves with at most one axis.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]
    metrics: dict[str, Metric]
    sums: Tensor | None
    counts: Tensor | None
    uses: list[Use]
    vectors: dict[int, Tensor]


def record(
    loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor | None, receive: Receive
) -> Recorded:
    """Computes a loss, and hands the gradient of the output of each use to `receive`, in backward order.

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics).
        params: tree of tensors; not differentiated themselves.
        batch: tensors [B, ...].
        key: of the loss, or None.
        receive: called with the gradient of each output; the list of uses is complete then.

    Returns:
        Recorded.

    Raises:
        UnknownUseError: if a param is used in an operation that is not recorded, or the rows of an input are
            no multiple of B.
    """
    values, spec = tree.flatten(params)
    leaves = [x.detach().requires_grad_() for x in values]
    if "weights" in batch:
        batch = {**batch, "weights": batch["weights"].detach().requires_grad_()}
    with torch.enable_grad():
        mode = Recorder(leaves, rows_of(batch), receive)
        with activations_kept(), mode:
            total, count, metrics = check_sums(outside(loss, tree.unflatten(spec, leaves), batch, key))
        weights = [batch["weights"]] if "weights" in batch else []
        inputs = [*mode.taps.values(), *(copies.copies for copies in mode.copies)]
        if reaches_others([total], [*weights, *inputs]):
            raise UnknownUseError(
                "the loss depends on a param, or another tensor, in a way that was not seen"
            )
        counts = _gradients(count, weights, again=True)
        sums, *grads = (
            _gradients(total, [*weights, *inputs]) if weights else [None, *_gradients(total, inputs)]
        )
        _deliver(mode, grads)
        vectors = _vectors(mode, grads[len(mode.taps) :], leaves)
    return Recorded(
        total.detach(),
        count.detach(),
        tree.detach(metrics),
        _by_example(sums, weights),
        _by_example(counts[0] if counts else None, weights),
        mode.uses,
        vectors,
    )


def _gradients(value: Tensor, inputs: list[Tensor], again: bool = False) -> list[Tensor | None]:
    """The gradients of a value, None where it does not depend on an input; `again`: the graph is kept."""
    if not value.requires_grad or not inputs:
        return [None] * len(inputs)
    return list(torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=again))


def _by_example(derivative: Tensor | None, weights: list[Tensor]) -> Tensor | None:
    """The part of each example in a sum, [B], from its derivative with respect to the weights [B, ...]."""
    if derivative is None:
        return None
    return (derivative * weights[0].detach()).reshape(len(derivative), -1).sum(1)


def _deliver(mode: Recorder, grads: list[Tensor | None]) -> None:
    """Hands over the gradients of outputs without a hook: they depend on nothing that requires grad."""
    for (number, _), d in zip(mode.taps.items(), grads, strict=False):
        if d is not None:
            mode.receive(number, mode.uses, d)


def _vectors(mode: Recorder, grads: list[Tensor | None], leaves: list[Tensor]) -> dict[int, Tensor]:
    """The gradients of the vectors, by leaf."""
    vectors: dict[int, Tensor] = {}
    for copies, d in zip(mode.copies, grads, strict=True):
        if d is not None:
            g = _leaf_gradients(copies, leaves[copies.leaf], d)
            vectors[copies.leaf] = vectors[copies.leaf] + g if copies.leaf in vectors else g
    return vectors


def _leaf_gradients(copies: Copies, leaf: Tensor, d: Tensor) -> Tensor:
    """The gradients of a leaf [B, ...] from those of the copies of a value that was computed from it."""
    if copies.value is leaf:
        return d
    (g,) = torch.autograd.grad(copies.value, leaf, d, is_grads_batched=True, retain_graph=True)
    return g
