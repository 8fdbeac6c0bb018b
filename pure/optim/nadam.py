"""NAdam and NAdamW: Adam and AdamW with Nesterov's mean of the gradients.

Shape letters: none; elementwise on each leaf.

Dozat, "Incorporating Nesterov Momentum into Adam", 2016.
"""

from __future__ import annotations

import torch

from pure.optim.adamw import adam, adamw
from pure.optim.base import Scalar, ScalarOrSchedule
from pure.optim.mask import Mask
from pure.types import GradientTransformation


def nadam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    """Builds NAdam: `adam` whose step already contains the next update of the mean.

        mu_hat = b1 mu / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)
        update = mu_hat / (√(nu_hat + eps_root) + eps)             mu, nu_hat: `adam_update`

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov: as in `adamw`.

    Returns:
        GradientTransformation with the state of `adam`.

    Example:
        One gradient of 1 from an empty mean, b1 = 0.5: 0.5 * 0.5 / 0.75 + 0.5 * 1 / 0.5 = 4 / 3.

        >>> opt = nadam(0.3, b1=0.5)
        >>> opt.update(torch.tensor([1.0]), opt.init(torch.tensor([0.0])))[0]
        tensor([-0.4000])

    Source: Dozat 2016, with a constant b1, as in optax.
    """
    return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    """Builds NAdamW: `adamw` with Nesterov's mean.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov: as in `adamw`.

    Returns:
        GradientTransformation with the state of `adamw`.

    Example:
        As in `nadam`, and a decay of 0.3 * 0.1 * 2.

        >>> opt, params = nadamw(0.3, b1=0.5, weight_decay=0.1), torch.tensor([2.0])
        >>> opt.update(torch.tensor([1.0]), opt.init(params), params)[0]
        tensor([-0.4600])
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov)
