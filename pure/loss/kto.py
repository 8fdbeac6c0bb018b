"""Kahneman-Tversky optimization: learning from completions labelled good or bad, without pairs.

Shape letters: B completions.

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pure.loss.check import check_range, expect, upcast


class KTO(NamedTuple):
    """Losses and implicit rewards of the completions.

    Fields:
        losses: [B] float32.
        rewards: [B] float32, β times the log-ratio to the reference, without gradient.
    """

    losses: Tensor
    rewards: Tensor


def kto_loss(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    divergence: Tensor,
    *,
    beta: float | Tensor,
    desirable_weight: float | Tensor = 1.0,
    undesirable_weight: float | Tensor = 1.0,
) -> KTO:
    """Computes the loss of each completion: the log-ratio of good ones rises, that of bad ones falls.

    In prospect theory gains and losses are relative to a reference point, and saturate away from it. Here the
    reference point is the KL of the policy from the reference.

        r = policy - reference
        good: w⁺ (1 - σ(β (r - z₀)))        bad: w⁻ (1 - σ(β (z₀ - r)))

    Args:
        policy, reference: [B] float, nats, log-probability of the completion, summed over its tokens.
        desirable: [B] bool, True for a good completion.
        divergence: [] float, z₀ >= 0, nats, from `mismatched_divergence`; receives no gradient.
        beta: β > 0; 0.1 in the paper.
        desirable_weight, undesirable_weight: w⁺ and w⁻ > 0; with n⁺ good and n⁻ bad completions choose them
            so that w⁺ n⁺ / (w⁻ n⁻) is in [1, 4/3].

    Returns:
        KTO(losses [B] in 0 .. w, rewards [B]), float32, or float64 as given; rewards, β r, without gradient.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args (dims "" for []), `check_range`
            for beta and both weights.
        2. Log-ratios r [B], in at least float32 (`upcast`); NaN where infinite.
        3. Distances from the reference point [B]: r - z₀, with z₀ detached, times +1 for a good and -1 for a
            bad completion.
        4. Losses [B]: the completion's weight times 1 - σ(β distance).
        5. Rewards [B], detached.

    Edge cases: a log-probability that is not finite gives NaN; no completions give no losses.

    Raises:
        ValueError: if a shape differs, or beta or a weight is not above 0.
        TypeError: if a dtype differs.

    Example:
        The policy is the reference and z₀ is 0: every loss is 1/2.

        >>> logps = torch.tensor([-3.0, -4.0])
        >>> kto_loss(logps, logps, torch.tensor([True, False]), torch.tensor(0.0), beta=0.1).losses
        tensor([0.5000, 0.5000])

    Source: Ethayarajh et al. 2024, equation 8.
    """
    # 1. Check.
    expect(
        "kto_loss",
        policy=(policy, "B", "float"),
        reference=(reference, "B", "float"),
        desirable=(desirable, "B", "bool"),
        divergence=(divergence, "", "float"),
    )
    check_range("kto_loss", "above 0", beta=beta)
    check_range(
        "kto_loss", "above 0", desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    # 2. Log-ratios [B].
    ratio = upcast(policy) - upcast(reference)
    ratio = torch.where(ratio.isinf(), torch.nan, ratio)
    # 3. Distances [B].
    centred = ratio - divergence.detach()
    sign = torch.where(desirable, 1.0, -1.0)
    # 4. Losses [B].
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    losses = weight * (1 - torch.sigmoid(beta * sign * centred))
    # 5. Rewards [B].
    return KTO(losses, (beta * ratio).detach())


def mismatched_divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Estimates z₀, the KL of the policy from the reference, from completions of other prompts of the batch.

        z₀ = max(0, mean_b (policy_b - reference_b))

    Args:
        policy, reference: [B] nats, log-probabilities of completion b + 1 after prompt b.

    Returns:
        [] nats, >= 0, without gradient.

    Raises:
        ValueError: if the shapes are not [B], or B is 0.
        TypeError: for log-probabilities that are not floating.

    Example:
        >>> mismatched_divergence(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0])).item()
        0.5

    Source: Ethayarajh et al. 2024, section 4.1.
    """
    expect("mismatched_divergence", policy=(policy, "B", "float"), reference=(reference, "B", "float"))
    if not len(policy):
        raise ValueError(
            "mismatched_divergence: expected at least one completion, got policy and reference [0]"
        )
    return (upcast(policy) - upcast(reference)).mean().clamp(min=0).detach()
