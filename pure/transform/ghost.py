"""Ghost norms: the norm of each example's gradient without the gradient, and sums of clipped gradients.

Differential privacy, outlier detection and noise scales need the norms of the examples' gradients, which
together take B times the memory of the params. One backward pass of the batch gives every norm, and a sum of
the gradients with any weights costs one more product for each matrix.

Shape letters: B examples.

Goodfellow, "Efficient Per-Example Gradient Computations", 2015; Li et al., "Large Language Models Can Be
Strong Differentially Private Learners", 2022; Bu et al., "Differentially Private Optimization on Large Model
at Small Cost", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pure.transform.accumulate import Loss
from pure.transform.arguments import require
from pure.transform.examine import Examined, examine
from pure.types import Tree


def per_sample_norms(loss: Loss) -> Callable[..., Tensor]:
    """Returns a function that computes the norm of each example's gradient, without the gradient.

        norms[b] = ‖∂ sum(loss of example b) / ∂params‖

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), as in
            `pure.transform.accumulate.accumulate`. An example is a row of the batch: one text, one pair, one
            group of answers.

    Returns:
        (params, batch, key) -> [B] float32, or float64 with float64 params. The batch is a dict of tensors
        [B, ...]; "batch_position" is added where it is missing.

    Edge cases: an example without gradient has norm 0. `remat` and the chunks of a loss save no memory here.
        Params that are used otherwise than in products (`x @ W.T`, `linear`), lookups, norms and elementwise
        operations with the model's states, a model whose rows are no multiple of B or in an order of their
        own (all tokens on one axis, as in a mixture of experts), and a call under a compiler, a transform or
        an outer gradient: computed from the gradients themselves, which takes longer (by
        `pure.transform.per_sample`).

    Raises:
        ValueError: if the batch has no rows, or its leaves differ in their number of rows; in a first call on
            values, if the examples' gradients do not add up to that of the batch, as the loss mixes examples.

    Example:
        The loss is w · x; the gradient of each example is x.

        >>> def loss(w, batch, key):
        ...     return (batch["x"] @ w.T).sum(), torch.tensor(1.0), {}
        >>> batch = {"x": torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])}
        >>> per_sample_norms(loss)(torch.ones(1, 2), batch, torch.tensor([0, 0]))
        tensor([5., 2.])

    Source: Goodfellow 2015, section 5; Li et al. 2022, section 4, with the inner product of the two uses of a
    tied embedding, which they leave out.
    """
    norms = partial(_norms, examine(loss, keep=False))
    return require("per_sample_norms(loss)", "params, batch, key", norms)


def clipped_sum(
    loss: Loss, max_norm: float | Tensor, *, keep: bool = True
) -> Callable[..., tuple[Tree, Tensor]]:
    """Returns a function that adds the examples' gradients, each clipped to a norm of at most `max_norm`.

        Σ_b min(1, max_norm / ‖G[b]‖) G[b]

    Args:
        loss: as in `per_sample_norms`.
        max_norm: > 0; infinity gives the gradient of the batch.
        keep: keep the input and the output gradient of every matrix, and add the clipped gradients from them
            (one pass: book-keeping); False runs a second forward and backward pass (least memory).

    Returns:
        (params, batch, key) -> (grads like the params, norms [B] before clipping).

    Edge cases: as `per_sample_norms`; an example without gradient adds 0.

    Raises:
        ValueError: if max_norm is not above 0; on the call, as `per_sample_norms`.

    Example:
        Gradients (3, 4) and (0, 2), clipped to norm 1.

        >>> def loss(w, batch, key):
        ...     return (batch["x"] @ w.T).sum(), torch.tensor(1.0), {}
        >>> batch = {"x": torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])}
        >>> clipped_sum(loss, 1.0)(torch.ones(1, 2), batch, torch.tensor([0, 0]))
        (tensor([[0.6000, 1.8000]]), tensor([5., 2.]))

    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1; in one pass as Bu et
    al. 2023, section 3.
    """
    check_bound("clipped_sum", max_norm)
    clipped = partial(_clipped_sum, examine(loss, keep=keep), max_norm)
    return require("clipped_sum(loss, max_norm)", "params, batch, key", clipped)


def check_bound(caller: str, max_norm: float | Tensor) -> None:
    """Checks a bound of norms; infinity is one. A tensor is not read.

    Raises:
        ValueError: if it is not above 0.
    """
    if not isinstance(max_norm, Tensor) and not max_norm > 0:
        raise ValueError(f"{caller}: max_norm must be above 0, got {max_norm}; float('inf') clips nothing")


def clip_factors(norms: Tensor, max_norm: float | Tensor) -> Tensor:
    """Computes min(1, max_norm / norm), 1 for a norm of 0.

    Example:
        >>> clip_factors(torch.tensor([0.0, 1.0, 4.0]), 2.0)
        tensor([1.0000, 1.0000, 0.5000])
    """
    above = norms > max_norm
    return torch.where(above, max_norm / torch.where(above, norms, 1.0), 1.0).to(norms.dtype)


def _norms(
    examine_fn: Callable[..., Examined], params: Tree, batch: dict[str, Tensor], key: Tensor
) -> Tensor:
    """The norms only."""
    return examine_fn(params, batch, key).norms


def _clipped_sum(
    examine_fn: Callable[..., Examined],
    max_norm: float | Tensor,
    params: Tree,
    batch: dict[str, Tensor],
    key: Tensor,
) -> tuple[Tree, Tensor]:
    """The sum of the clipped gradients, and the norms."""
    examined = examine_fn(params, batch, key)
    return examined.weighted(clip_factors(examined.norms, max_norm)), examined.norms
