"""Sharpness: the largest eigenvalue of the Hessian of a stage's mean loss, along a run or after it.

Gradient descent with learning rate η is stable only where the sharpness is below 2/η. In training it rises to
that value and stays near it, the edge of stability.

Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", 2021.
"""

from __future__ import annotations

from torch import Tensor

from pure.foreign import check_loss
from pure.transform.accumulate import Loss, check_sums
from pure.transform.curvature import Lanczos, hessian_product, lanczos
from pure.types import Tree


def sharpness(loss: Loss, params: Tree, batch: Tree, key: Tensor, *, steps: int = 20) -> Tensor:
    """Computes the largest eigenvalue of the Hessian of the mean loss of a batch.

        λ = max vᵀ H v over |v| = 1,   H = ∂²(sum / count) / ∂params²

    Along a run: call it after every n-th `stage.step`, with the same batch and key. For LoRA, the params are
    the adapters, and so are the directions in which curvature is measured.

    Args:
        loss: (params, batch, key) -> (sum, count, metrics), such as `stages.stage.loss_of(stage)`; its key is
            None: no dropout.
        params: tree of float tensors, such as `state.params`.
        batch: a batch of the stage.
        key: [2] uint32, for the start vector.
        steps: products, at most as many as there are numbers in the params.

    Returns:
        [] float, in units of the loss over those of the params squared; too low by at most the last of the
        residuals of `spectrum`, and usually much less.

    Raises:
        ValueError: as `pure.transform.krylov.lanczos`.

    Example:
        Mean of 3 (x p)² over two rows: the Hessian is 6 (1 + 9) / 2.

        >>> import torch
        >>> from pure import random
        >>> def loss(p, batch, key):
        ...     return (3 * (batch["x"] * p).square()).sum(), torch.tensor(2.0), {}
        >>> x = torch.tensor([1.0, 3.0])
        >>> sharpness(loss, torch.tensor(0.5), {"x": x}, random.key(0), steps=1)
        tensor(30.)

    Source: Cohen et al. 2021, section 2.
    """
    return spectrum(loss, params, batch, key, steps=steps).values[-1]


def spectrum(loss: Loss, params: Tree, batch: Tree, key: Tensor, *, steps: int = 20) -> Lanczos:
    """Computes the outermost eigenvalues of the same Hessian, their vectors, and its spectral density.

    Args:
        loss, params, batch, key, steps: as in `sharpness`.

    Returns:
        Lanczos(values, vectors, residuals, weights).

    Raises:
        ValueError: as `sharpness`.
    """

    check_loss("sharpness", loss)

    def mean_loss(params: Tree) -> Tensor:
        total, count, _ = check_sums(loss(params, batch, None))
        return total / count.to(total.dtype)

    return lanczos(hessian_product(mean_loss, params), key, params, steps)
