"""Prepare the metrics of a run for drawing: groups by name, and long curves shortened.

Shape letters: S logged steps, P points of a curve.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Loss": ("loss", "val_", "policy_loss", "value_loss", "z_loss", "nll"),
        "Optimization": ("learning_rate", "grad_norm", "noise_scale", "clip_per_sample", "dp_"),
        "Rewards": ("reward", "val_reward", "logps", "logits", "values", "advantages"),
        "Divergence from the start": ("kl", "approx_kl", "clip_ratio", "entropy", "sampling"),
        "Completions": ("completions", "frac_"),
        "Speed": ("tok_per_sec", "tflops", "mfu", "compile_seconds", "tokens"),
    }
)
"""Heading -> beginnings of the names of its metrics; all others stand under OTHER."""

OTHER = "Other"
SKIPPED = "nonfinite_leaf"
"""Metric that says which updates were skipped; it is an index, so that it is counted and not drawn."""


class Curve(NamedTuple):
    """One metric of one run.

    Fields:
        steps: [P] int64, increasing.
        values: [P] float64; NaN where the metric is not finite in float32.
        logged: values in the log, before the curve was shortened.
    """

    steps: np.ndarray
    values: np.ndarray
    logged: int


def make_curve(steps: Sequence[int], values: Sequence[float]) -> Curve:
    """Make a curve of the values in a log; what is no finite float32 becomes NaN, so that an axis has bounds.

    Args:
        steps: [S], increasing.
        values: [S].
    """
    numbers = np.asarray(values, dtype=np.float64)
    drawn = np.abs(numbers) <= np.finfo(np.float32).max  # False for NaN too; points are drawn in float32
    return Curve(np.asarray(steps, dtype=np.int64), np.where(drawn, numbers, np.nan), len(numbers))


def shorten(curve: Curve, buckets: int) -> Curve:
    """Keep the smallest and the largest value of each bucket of steps, and the last value.

    A peak of one step is drawn however long the run is, which a mean or every n-th value would hide.

    Args:
        curve: of P points.
        buckets: number of buckets; each has the same number of points, to within one.

    Returns:
        The curve itself if P is at most 2 · buckets + 1, else one of at most that many points.

    Edge cases: a bucket without a finite value keeps one NaN, a gap in the line.

    Example:
        >>> curve = make_curve(range(1, 9), [1.0, 5.0, 2.0, 2.0, 0.0, 3.0, 3.0, 4.0])
        >>> short = shorten(curve, 2)
        >>> short.steps.tolist(), short.values.tolist()
        ([1, 2, 5, 8], [1.0, 5.0, 0.0, 4.0])
    """
    count = len(curve.values)
    if count <= 2 * buckets + 1:
        return curve
    edges = np.linspace(0, count, buckets + 1).astype(int)
    kept = {count - 1}
    for low, high in itertools.pairwise(edges):
        part = curve.values[low:high]
        if np.isnan(part).all():
            kept.add(int(low))
        else:
            kept |= {int(low + np.nanargmin(part)), int(low + np.nanargmax(part))}
    chosen = np.asarray(sorted(kept))
    return curve._replace(steps=curve.steps[chosen], values=curve.values[chosen])


def describe_gaps(name: str, curve: Curve) -> str:
    """Say which values of a metric cannot be drawn, as they are not finite in float32; "" if all can.

    Example:
        >>> describe_gaps("loss", make_curve([1, 2, 3], [1.0, float("nan"), 2.0]))
        'loss: 1 of 3 values cannot be drawn (step 2)'
    """
    steps = curve.steps[np.isnan(curve.values)]
    if not len(steps):
        return ""
    place = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"{name}: {len(steps):,} of {len(curve.values):,} values cannot be drawn ({place})"


def group_metrics(names: Collection[str]) -> dict[str, list[str]]:
    """Sort the names of metrics into GROUPS, each by the longest beginning that fits.

    Example:
        >>> group_metrics(["reward", "loss", "mine", "val_loss"])
        {'Loss': ['loss', 'val_loss'], 'Rewards': ['reward'], 'Other': ['mine']}
    """
    groups: dict[str, list[str]] = {heading: [] for heading in (*GROUPS, OTHER)}
    for name in names:
        matches = [
            (len(beginning), heading)
            for heading, beginnings in GROUPS.items()
            for beginning in beginnings
            if name.startswith(beginning)
        ]
        groups[max(matches, default=(0, OTHER))[1]].append(name)
    return {heading: members for heading, members in groups.items() if members}
