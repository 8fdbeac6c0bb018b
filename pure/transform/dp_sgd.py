"""Differentially private training: each example's gradient is clipped, and noise is added to their sum.

No example can change a step by more than the noise hides, so that a model does not reveal whether an example
was trained on.

Shape letters: B examples.

Abadi et al., "Deep Learning with Differential Privacy", 2016; Mironov, "Rényi Differential Privacy", 2017.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.loss.check import check_range, may_be_nonzero
from pure.transform.accumulate import Accumulated, Loss, Metric, number_rows, sum_parts
from pure.transform.examine import Checks, examine
from pure.transform.ghost import check_bound, clip_factors
from pure.transform.gradient import Gradient
from pure.transform.jit import region
from pure.types import Tree

METRICS = ("clip/fraction", "clip/norm")
"""Metrics of a step: share of the examples whose gradient was clipped, and the mean norm before clipping."""

NOISE_KEY = crc32(b"dp_sgd")
"""Folded into a step's key for the noise."""


def clipped(
    max_norm: float | Tensor, *, noise: float | Tensor = 0.0, keep: bool = True, parts: int = 1
) -> Gradient:
    """Return the Gradient of a stage that clips each example's gradient, and adds noise to their sum.

        g[b] = ∂ (sum_b / count_b) / ∂params,    ḡ[b] = min(1, max_norm / ‖g[b]‖) g[b]
        gradient = (Σ_b ḡ[b] + noise · max_norm · N(0, I)) / B

    Args:
        max_norm: > 0, bound of the norm of each example's gradient of its mean loss; infinity clips nothing.
        noise: >= 0, standard deviation of the noise, in units of max_norm (the noise multiplier).
        keep: as in `pure.transform.ghost.clipped_sum`: one pass, or two with less memory.
        parts: >= 1, micro-batches of a step, to save memory; must divide B. The result is that of one.

    Returns:
        A Gradient with the metrics METRICS and no memory. An example is a row of the batch: a text, a pair,
        a group of answers. The loss that the stage reports is the mean over examples of their mean losses.

    Edge cases: an example whose count or weight is 0 adds nothing; another weight changes nothing, as an
        example's mean does not depend on it. The divisor is B in any case, which is public. The noise depends
        on the step's key alone: a resumed or replayed step draws it again, the next step draws another. A
        step with a number that is not finite is skipped, which depends on the data, and is not accounted for.

    Raises:
        ValueError: if max_norm is not above 0, noise is below 0, there is noise and no bound, or parts < 1;
            in a step, if parts does not divide B; in the first step, if the loss mixes examples, or ignores
            `batch["weights"]`.

    Example:
        Gradients 3 and 1, clipped to 2: (2 + 1) / 2 examples.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"] * batch["weights"]).sum(), batch["weights"].sum(), {}
        >>> batch = {"x": torch.tensor([3.0, 1.0])}
        >>> result, _ = clipped(2.0).compute(loss, torch.tensor(1.0), batch, None, {}, None)
        >>> result.grads, result.count, result.metrics["clip/fraction"]  # 1 of 2 examples
        (tensor(3.), tensor(2.), (tensor(1.), tensor(2.)))

    Source: Abadi et al. 2016, algorithm 1.
    """
    check_bound("clipped", max_norm)
    check_range("clipped", "at least 0", noise=noise)
    if may_be_nonzero(noise) and not isinstance(max_norm, Tensor) and max_norm == float("inf"):
        raise ValueError(f"clipped: noise {noise} is in units of max_norm, which is infinite; give a bound")
    check_range("clipped", "at least 1", parts=parts)
    compute = partial(_compute, max_norm, noise, keep, parts, region(add_leaf_noise), Checks(set(), set()))
    return Gradient(_init, compute, METRICS)


def add_noise(
    grads: Tree, key: Tensor, deviation: float | Tensor, *, add: Callable[..., Tensor] | None = None
) -> Tree:
    """Add normal noise to every leaf, from a key of its own, folded from the leaf's path.

    Args:
        grads: tree of tensors.
        key: [2] uint32.
        deviation: standard deviation of the noise of each number.
        add: `add_leaf_noise`, as a `region` to compile; None: the same, not a region.

    Returns:
        A tree like `grads`.

    Example:
        >>> add_noise({"w": torch.zeros(3)}, random.key(0), 0.0)
        {'w': tensor([0., 0., 0.])}
    """
    own = random.fold_in(key, NOISE_KEY)
    size = torch.as_tensor(deviation, dtype=torch.float32, device=key.device)

    def add_by_path(path: str, g: Tensor) -> Tensor:
        return (add or add_leaf_noise)(g, random.fold_in(own, crc32(path.encode())), size)

    return tree.map_with_path(add_by_path, grads)


def add_leaf_noise(g: Tensor, key: Tensor, deviation: Tensor) -> Tensor:
    """Add normal noise to one leaf, of any shape; see `add_noise`."""
    return g + (deviation * random.normal(key, tuple(g.shape))).to(g.dtype)


def epsilon(steps: int, sample_rate: float, noise: float, delta: float) -> float:
    """Compute the ε of (ε, δ)-differential privacy that a run of `clipped` has spent, by Opacus' accountant.

        P[run(data) ∈ S] <= e^ε P[run(data without one example) ∈ S] + δ        for every set S of results

    The accountant assumes that each example is in each batch with probability `sample_rate`, independently of
    all others (Poisson sampling), and that steps differ in their noise. Pipes of this library shuffle the
    data and cut it into batches of fixed size: each example is in one batch an epoch. For them ε is the usual
    estimate, not a proof.

    Args:
        steps: optimizer steps taken, skipped ones included.
        sample_rate: batch size over examples of the data set, in (0, 1].
        noise: noise multiplier, as in `clipped`.
        delta: δ in (0, 1), below 1 / examples.

    Returns:
        ε >= 0; infinite without noise, 0 without steps.

    Raises:
        ValueError: for an argument out of range.
        ImportError: if Opacus is not installed.

    Example:
        >>> epsilon(0, 0.01, 1.0, 1e-5), epsilon(100, 0.01, 0.0, 1e-5)
        (0.0, inf)

    Source: Mironov 2017, and Mironov et al., "Rényi Differential Privacy of the Sampled Gaussian Mechanism",
    2019; RDPAccountant of Opacus.
    """
    check_range("epsilon", "at least 0", steps=steps, noise=noise)
    for name, value in (("sample_rate", sample_rate), ("delta", delta)):
        if not 0 < value <= 1:
            raise ValueError(f"epsilon: {name} must be in (0, 1], got {value}")
    if steps == 0 or noise == 0:
        return float("inf") if steps else 0.0
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise ImportError(
            "epsilon: Opacus, whose accountant it is, is not installed: pip install opacus"
        ) from error
    accountant = RDPAccountant()
    accountant.history = [(noise, sample_rate, steps)]
    with warnings.catch_warnings():  # ε is a bound at any order; another order might give a lower one
        warnings.filterwarnings("ignore", "Optimal order is the")
        return float(accountant.get_epsilon(delta))


def _init(params: Tree) -> Tree:
    """No memory."""
    del params
    return {}


def _compute(
    max_norm: float | Tensor,
    noise: float | Tensor,
    keep: bool,
    parts: int,
    add: Callable[..., Tensor],
    checks: Checks,
    loss: Loss,
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    memory: Tree,
    scale: Tensor | None,
) -> tuple[Accumulated, Tree]:
    """Adds the clipped gradients of the micro-batches, and of all processes, and draws the noise once."""
    batch = number_rows("clipped", batch)
    clip_part = partial(_clip, loss, max_norm, keep, checks, params)
    sums = sum_parts(lambda rows: clip_part(rows, key, scale), batch, parts)
    if may_be_nonzero(noise):
        if key is None:
            raise ValueError("clipped: noise needs a key, got None; give that of the step")
        sums = sums._replace(grads=add_noise(sums.grads, key, noise * max_norm, add=add))
    return sums, memory


def _clip(
    loss: Loss,
    max_norm: float | Tensor,
    keep: bool,
    checks: Checks,
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    scale: Tensor | None,
) -> Accumulated:
    """Measures each example of a micro-batch, clips and adds.

    Steps:
        1. Norms of the gradients of the sums, of a scaled loss in float16.
        2. Norms of the gradients of the means; factors.
        3. The sum of the clipped gradients.
    """
    # 1. Sums.
    rows = len(batch["batch_position"])
    factor = 1.0 if scale is None else scale / rows
    measured = loss if scale is None else partial(_scaled, loss, factor)
    examined = examine(measured, keep=keep, counted=True, checks=checks, name=loss)(params, batch, key)
    assert examined.sums is not None, "counted=True measures sums and counts"
    assert examined.counts is not None
    sums, counts = (x.to(examined.norms.dtype) for x in (examined.sums, examined.counts))
    # 2. Means.
    real = counts > 0
    inverse = torch.where(real, 1.0 / torch.where(real, counts, 1.0), 0.0) / factor
    norms = examined.norms * inverse
    factors = clip_factors(norms, max_norm) * inverse
    # 3. Sum.
    if scale is None:
        grads = examined.weighted(factors)
    else:  # float16 rounds small factors to 0
        largest = torch.where(factors.amax() > 0, factors.amax(), 1.0)
        grads = tree.map(lambda g: g * largest.to(g.dtype), examined.weighted(factors / largest))
    total, count = (sums * inverse).sum(), real.sum().to(norms.dtype)
    metrics: dict[str, Metric] = {
        "clip/fraction": ((norms > max_norm).sum().to(norms.dtype), count),
        "clip/norm": (torch.where(real, norms, 0.0).sum(), count),
    }
    return Accumulated(total, torch.full_like(total, rows), {**examined.metrics, **metrics}, grads)


def _scaled(loss: Loss, factor: float | Tensor, params: Tree, batch: Tree, key: Tensor | None) -> tuple:
    """The loss times a factor; count and metrics are unchanged."""
    total, count, metrics = loss(params, batch, key)
    return total * factor, count, metrics
