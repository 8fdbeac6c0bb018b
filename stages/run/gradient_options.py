"""The arguments of a stage that say how its gradient is computed, from the flags of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pure.transform.dp_sgd import clipped
from pure.transform.noise_scale import noise_scale
from stages.run.options.base import OptimizerFlags

if TYPE_CHECKING:
    from stages.stage import StageOptions


def gradient_options(flags: OptimizerFlags) -> StageOptions:
    """Return the micro-batches of a step, what is measured over them, and the decay of the average.

    Args:
        flags: gradient_accumulation, noise_scale, clip_per_sample, dp_noise and ema.

    Returns:
        Keyword arguments of `stages.stage.stage`.

    Example:
        >>> gradient_options(OptimizerFlags(gradient_accumulation=4))
        {'ema': None, 'accumulation': 4}
        >>> gradient_options(OptimizerFlags(noise_scale=True))["gradient"].metrics[0]
        'noise_scale'
    """
    if flags.clip_per_sample:
        gradient = clipped(flags.clip_per_sample, noise=flags.dp_noise, parts=micro_batches(flags))
        return {"ema": flags.ema, "gradient": gradient}
    if flags.noise_scale:
        return {"ema": flags.ema, "gradient": noise_scale(micro_batches(flags))}
    return {"ema": flags.ema, "accumulation": micro_batches(flags)}


def micro_batches(flags: OptimizerFlags) -> int:
    """Return the number of micro-batches of a step: --noise_scale compares at least two."""
    return max(flags.gradient_accumulation, 2 if flags.noise_scale else 1)
