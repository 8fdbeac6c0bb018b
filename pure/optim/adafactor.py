"""Adafactor: Adam's division with factored second moments, for a memory of R + C instead of R C numbers.

Shape letters: R rows, C columns of a matrix.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018.
"""

from __future__ import annotations

import torch

from pure.optim.base import Scalar, ScalarOrSchedule, chain
from pure.optim.block_rms import clip_by_block_rms, scale_by_param_block_rms
from pure.optim.check import check_not_negative
from pure.optim.ema import ema
from pure.optim.factored_rms import scale_by_factored_rms
from pure.optim.mask import Mask
from pure.optim.scale import scale, scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation


def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Scalar = 0.8,
    decay_offset: Scalar = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Scalar | None = 1.0,
    momentum: Scalar | None = None,
    dtype_momentum: torch.dtype | None = torch.float32,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: Scalar = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask | None = None,
) -> GradientTransformation:
    """Builds Adafactor, the optimizer of T5 and PaLM: almost no memory beyond the parameters.

        u = g / sqrt(v)                                  v: `scale_by_factored_rms`
        u ← u / max(1, RMS(u) / clipping_threshold)
        p ← p - learning_rate max(RMS(p), 1e-3) u        RMS of a leaf p; without the max if not wanted

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule; relative to the size of the parameters if
            multiply_by_parameter_scale. None leaves it out.
        min_dim_size_to_factor: factor leaves whose two largest axes have at least this length.
        decay_rate: exponent of the decay of mean squares; see `decay_rate_pow`.
        decay_offset: count at which a fine-tuning starts.
        multiply_by_parameter_scale: multiply updates by the RMS of the leaf's parameters. With False a
            learning rate of AdamW fits.
        clipping_threshold: largest RMS of a leaf's update; None does not clip.
        momentum: decay of a mean of the updates, in [0, 1); None keeps none.
        dtype_momentum: storage of that mean.
        weight_decay_rate: decay per update, not multiplied by the learning rate; None: no decay.
        eps: added to squared gradients.
        factored: False keeps the mean squares of every leaf whole.
        weight_decay_mask: which leaves decay, as in `adamw`.

    Returns:
        GradientTransformation with a tuple of the states of its links: FactoredState, then one for each of
        clipping, learning rate, parameter scale, momentum (EmaState) and decay that is used, and EmptyState
        for the sign.

    Raises:
        ValueError: for numbers out of range; at the update, if params are missing.

    Example:
        The first update has RMS 1, times a learning rate of 0.1 and the parameters' RMS, 5.

        >>> opt, params = adafactor(0.1), torch.tensor([1.0, 7.0])
        >>> opt.update(torch.tensor([3.0, -0.2]), opt.init(params), params)[0]
        tensor([-0.5000,  0.5000])

    Source: Shazeer and Stern 2018, algorithms 4 to 6; the order of the links is optax's.
    """
    check_not_negative("adafactor", optional=True, learning_rate=learning_rate)
    links = [scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps)]
    if clipping_threshold is not None:
        links.append(clip_by_block_rms(clipping_threshold))
    if learning_rate is not None:
        links.append(scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        links.append(scale_by_param_block_rms())
    if momentum is not None:
        links.append(ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None:
        links.append(add_decayed_weights(weight_decay_rate, weight_decay_mask))
    return chain(*links, scale(-1))
