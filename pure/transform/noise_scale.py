"""Noise scale of the gradient: how many examples a batch needs before more of them bring little.

The gradient of a batch is the true gradient plus noise that falls with the number of rows. Below the noise
scale a larger batch trains as fast as proportionally more steps; far above it, it brings nothing.

Shape letters: B rows, M micro-batches, L leaves of the params.

McCandlish et al., "An Empirical Model of Large-Batch Training", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.foreign import check_loss
from pure.transform.accumulate import Accumulated, Loss, accumulate, number_rows, row_count, split
from pure.transform.arguments import require
from pure.transform.gradient import Gradient
from pure.types import Tree

METRICS = ("noise_scale", "noise_scale/low", "noise_scale/high")
"""Metrics of a running estimate, in rows: the noise scale and its 95% interval; NaN while not resolved."""
QUANTILE = 1.96
"""Standard errors on both sides of a normal distribution's mean that hold 95% of it."""


class GradientNoise(NamedTuple):
    """Noise and signal of a gradient, by leaf of the params; sums over leaves are those of the whole.

    Fields:
        trace: [L] Σ, trace of the covariance of one row's gradient of the mean loss.
        signal: [L] |g|², squared norm of the true gradient of the mean loss; an unbiased estimate, which may
            be below 0.
    """

    trace: Tensor
    signal: Tensor


class NoiseMemory(NamedTuple):
    """Running means of a GradientNoise, and how certain they are.

    Fields:
        weight, squares: [] sum of the weights of all steps so far, and of their squares.
        trace, signal: [L] weighted means.
        covariance: [3] weighted variance of the whole trace, its covariance with the whole signal, and the
            variance of the signal, from step to step.
    """

    weight: Tensor
    squares: Tensor
    trace: Tensor
    signal: Tensor
    covariance: Tensor


def gradient_noise(
    loss: Loss, *, parts: int | None = None
) -> Callable[[Tree, Tree, Tensor | None], GradientNoise]:
    """Return a function that measures noise and signal of a batch's gradient once.

        trace = B v,     signal = |S / N|² - v,     v = M / (M - 1) Σ_m |S_m - N_m S / N|² / N²

    with S_m and N_m the gradient of the sum and the count of micro-batch m, S and N their sums over all. v is
    the variance of S / N. Micro-batches of more tokens weigh more, as in the loss.

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics).
        parts: M, at least 2, must divide B; None: B, one row each, the most precise.

    Returns:
        (params, batch, key) -> GradientNoise.

    Raises:
        ValueError: if parts < 2, or on the call if there are fewer than 2 rows, or parts does not divide B.

    Example:
        Rows with gradients 1 and 3: the mean is 2, the variance of a row 2 and that of the mean 1.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(float(len(batch["x"]))), {}
        >>> noise = gradient_noise(loss)(torch.tensor(0.0), {"x": torch.tensor([1.0, 3.0])}, None)
        >>> noise.trace.tolist(), noise.signal.tolist()
        ([2.0], [3.0])

    Source: McCandlish et al. 2018, appendix A.1, with the ratio estimator's variance for counts that differ.
    """
    check_loss("gradient_noise", loss)
    _check_parts(2 if parts is None else parts)
    return require("gradient_noise(loss)", "params, batch, key", partial(_gradient_noise, loss, parts))


def noise_scale(parts: int = 4, *, decay: float = 0.95) -> Gradient:
    """Return the Gradient of a stage that estimates the noise scale while it trains.

        noise scale = mean of trace / mean of signal,     means over the last steps

    Numerator and denominator are averaged apart, as a mean of their ratios is dominated by steps whose signal
    is near 0. The interval is Fieller's, for a ratio of two means, from the variances between steps. Where
    the signal is not above 0 by as many standard errors, there is no interval, and all three metrics are NaN:
    more steps, or rows, are needed. It is an interval of these means: in a run whose noise scale rises, that
    of the current params is above them and may be outside. `gradient_noise` measures the current params.

    Args:
        parts: M >= 2, micro-batches of a step; must divide B.
        decay: weight of the earlier steps, in (0, 1): 0.95 averages over about 20 to 40 steps.

    Returns:
        A Gradient with the metrics METRICS, in rows of the batch (times tokens a row: in tokens), and a
        NoiseMemory, from which `signal_to_noise` reads each layer's ratio. The gradient is that of
        `accumulation=parts`, bit for bit.

    Edge cases: with `weights` in the batch, a row counts as often as its weight says. Steps that follow each
    other count as independent.

    Raises:
        ValueError: if parts < 2 or decay is out of range.

    Example:
        >>> noise_scale(parts=4).metrics
        ('noise_scale', 'noise_scale/low', 'noise_scale/high')

    Source: McCandlish et al. 2018, equation 2.8 and appendix A.1; Fieller, "Some Problems in Interval
    Estimation", 1954.
    """
    _check_parts(parts)
    if not 0 < decay < 1:
        raise ValueError(f"noise_scale: decay must be in (0, 1), such as 0.95, got {decay}")
    return Gradient(_init, partial(_compute, parts, decay), METRICS)


def signal_to_noise(memory: NoiseMemory | GradientNoise, params: Tree) -> dict[str, Tensor]:
    """Return each leaf's ratio of signal to noise, for one row: |g|² / Σ.

    Args:
        memory: `state.extra["gradient"]` of a stage with `gradient=noise_scale(...)`; or a GradientNoise.
        params: the state's params, for the paths.

    Returns:
        {path: []}; below 0 where the signal is not resolved. The inverse is the noise scale of the leaf.
    """
    ratios = memory.signal / memory.trace
    return dict(zip(tree.paths(params), ratios.unbind(-1), strict=True))


def _gradient_noise(
    loss: Loss, parts: int | None, params: Tree, batch: Tree, key: Tensor | None
) -> GradientNoise:
    """Measures a batch."""
    batch = number_rows("gradient_noise", batch)
    rows = len(batch["batch_position"])
    _check_parts(parts or rows)
    return _accumulate_and_compare(loss, parts or rows, params, batch, key, None)[1]


def _accumulate_and_compare(
    loss: Loss, parts: int, params: Tree, batch: Tree, key: Tensor | None, scale: Tensor | None
) -> tuple[Accumulated, GradientNoise]:
    """Accumulates the gradient, and measures it.

    Steps:
        1. Over micro-batches, in order: the sum of gradients S, Σ N_m S_m, and per leaf Σ |S_m|².
        2. Σ |S_m - N_m S / N|², multiplied out.
        3. Variance of the mean gradient, and from it trace and signal.
    """
    # 1. Sums.
    compute = accumulate(loss)
    batches = split(batch, parts)
    total = compute(params, batches[0], key, scale)
    by_count = tree.map(lambda g: g * total.count, total.grads)
    squares, squared_counts = tree.leaf_inner(total.grads, total.grads), total.count.square()
    for micro_batch in batches[1:]:
        part = compute(params, micro_batch, key, scale)
        by_count = tree.map(lambda t, g, n=part.count: t + g * n, by_count, part.grads)
        squares = squares + tree.leaf_inner(part.grads, part.grads)
        squared_counts = squared_counts + part.count.square()
        total = tree.map(torch.add, total, part)
    # 2. Deviations.
    norms = tree.leaf_inner(total.grads, total.grads)
    n = total.count.to(norms.dtype)
    deviations = (
        squares - 2 / n * tree.leaf_inner(total.grads, by_count) + norms * (squared_counts / n.square())
    )
    # 3. Variance.
    variance = (parts / (parts - 1) * deviations / n.square()).clamp(min=0)
    rows = _row_sum(batch["weights"]) if "weights" in batch else row_count("noise_scale", batch)
    return total, GradientNoise(rows * variance, norms / n.square() - variance)


def _row_sum(weights: Tensor) -> Tensor:
    """The sum of the weights [B] of rows; of a group's answers [B, G], their mean is the row's."""
    return weights.reshape(len(weights), -1).mean(1).sum()


def _init(params: Tree) -> NoiseMemory:
    """The memory before the first step."""
    leaves = tree.leaves(params)
    new = partial(torch.zeros, dtype=tree.shared_dtype(params), device=leaves[0].device)
    return NoiseMemory(new(()), new(()), new(len(leaves)), new(len(leaves)), new(3))


def _compute(
    parts: int,
    decay: float,
    loss: Loss,
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    memory: NoiseMemory,
    scale: Tensor | None,
) -> tuple[Accumulated, NoiseMemory]:
    """The gradient of a batch, with the metrics of the running estimate."""
    result, noise = _accumulate_and_compare(loss, parts, params, batch, key, scale)
    memory = _average(memory, noise, decay)
    metrics = dict(zip(METRICS, _ratio_and_interval(memory), strict=True))
    return result._replace(metrics={**result.metrics, **metrics}), memory


def _average(memory: NoiseMemory, noise: GradientNoise, decay: float) -> NoiseMemory:
    """Takes one step into the running means and their covariance."""
    weight = decay * memory.weight + (1 - decay)
    squares = decay**2 * memory.squares + (1 - decay) ** 2
    share = (1 - decay) / weight
    trace, signal = noise.trace - memory.trace, noise.signal - memory.signal
    t, s = trace.sum(), signal.sum()
    covariance = (1 - share) * (memory.covariance + share * torch.stack([t * t, t * s, s * s]))
    return NoiseMemory(
        weight, squares, memory.trace + share * trace, memory.signal + share * signal, covariance
    )


def _ratio_and_interval(memory: NoiseMemory) -> tuple[Tensor, Tensor, Tensor]:
    """Ratio of the means of trace and signal, and Fieller's interval for it; NaN where not resolved."""
    trace, signal = memory.trace.sum(), memory.signal.sum()
    share = memory.squares / memory.weight.square()  # 1 / number of independent steps
    tt, ts, ss = (QUANTILE**2 * memory.covariance * share / (1 - share)).unbind()
    a, b, c = signal.square() - ss, trace * signal - ts, trace.square() - tt
    root = (b.square() - a * c).clamp(min=0).sqrt()
    resolved = (signal > 0) & (a > 0) & (share < 0.999)  # one step has no variance
    values = (trace / signal, ((b - root) / a).clamp(min=0), (b + root) / a)
    return tuple(torch.where(resolved, x, torch.nan) for x in values)  # type: ignore[return-value]


def _check_parts(parts: int) -> None:
    """Checks that there are parts to compare."""
    if not isinstance(parts, int) or parts < 2:
        raise ValueError(f"noise_scale: expected at least 2 micro-batches to compare, got {parts}")
