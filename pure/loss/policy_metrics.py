"""Metrics of a clipped policy loss: tokens clipped on each side, and the KL from the behaviour policy.

Shape letters: B completions, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import check_range, expect
from pure.loss.kl import LIMIT
from pure.loss.kl import kl as divergence


def policy_metrics(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float | Tensor,
    clip_high: float | Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Computes the fraction of tokens clipped on each side, and the KL from the behaviour policy.

    Args:
        logps, old_logps: [B, T] nats.
        advantages: [B] or [B, T].
        mask: [B, T] bool.
        clip_low, clip_high: as in `grpo_loss`.

    Returns:
        {name: (sum [], tokens [])}, TRL's names: clip_ratio/low_mean, clip_ratio/high_mean,
        clip_ratio/region_mean (either side), and approx_kl (estimator k3, nats).

    Raises:
        ValueError: for another shape, or a negative clip.
        TypeError: for another dtype.
    """
    dims = "B" if isinstance(advantages, Tensor) and advantages.ndim == 1 else "B T"
    expect(
        "policy_metrics",
        logps=(logps, "B T", "float"),
        old_logps=(old_logps, "B T", "float"),
        advantages=(advantages, dims, "float"),
        mask=(mask, "B T", "bool"),
    )
    check_range("policy_metrics", "at least 0", clip_low=clip_low, clip_high=clip_high)
    a = advantages[:, None] if advantages.ndim == 1 else advantages
    log_ratio = torch.where(mask, logps - old_logps, 0.0).detach()
    ratio = log_ratio.clamp(-LIMIT, LIMIT).exp()
    low = (ratio < 1 - clip_low) & (a < 0) & mask
    high = (ratio > 1 + clip_high) & (a > 0) & mask
    approx_kl = divergence(log_ratio, torch.zeros_like(log_ratio), "k3")
    tokens = mask.sum().float()
    return {
        "clip_ratio/low_mean": (low.sum().float(), tokens),
        "clip_ratio/high_mean": (high.sum().float(), tokens),
        "clip_ratio/region_mean": ((low | high).sum().float(), tokens),
        "approx_kl": (approx_kl.sum(), tokens),
    }
