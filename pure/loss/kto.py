"""Kahneman-Tversky optimization: learning from single answers marked good or bad, without pairs.

Shape letters: B answers.

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KTO(NamedTuple):
    """One loss an answer, and what the policy is implicitly rewarded with.

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
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTO:
    """Computes the loss of each answer: good ones shall gain on the reference, bad ones lose, with saturation.

    People feel losses and gains against a point of reference, less and less the further from it. Here that point is
    how far the policy has moved altogether.

        r = policy - reference
        good: w⁺ (1 - σ(β (r - z₀)))        bad: w⁻ (1 - σ(β (z₀ - r)))

    Args:
        policy, reference: [B] nats, log-probability of the whole answer, summed over its tokens.
        desirable: [B] bool, True for a good answer.
        divergence: [] z₀ >= 0, nats, from `mismatched_divergence`; no gradient flows through it.
        beta: β > 0; 0.1 in the paper.
        desirable_weight, undesirable_weight: w⁺ and w⁻ > 0; with n⁺ good and n⁻ bad answers choose them so that
            w⁺ n⁺ / (w⁻ n⁻) lies in [1, 4/3].

    Returns:
        KTO(losses [B], rewards [B]), float32.

    Example:
        The policy is the reference, z₀ is 0: every loss is 1/2.

        >>> same = torch.tensor([-3.0, -4.0])
        >>> kto_loss(same, same, torch.tensor([True, False]), torch.tensor(0.0), beta=0.1).losses
        tensor([0.5000, 0.5000])

    Source: Ethayarajh et al. 2024, equation 8.
    """
    ratio = policy - reference
    centred = ratio - divergence.detach()
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    losses = weight * (1 - torch.sigmoid(beta * sign * centred))
    return KTO(losses, (beta * ratio).detach())


def mismatched_divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Estimates how far the policy has moved, z₀, from answers that belong to other prompts of the batch.

        z₀ = max(0, mean_b (policy_b - reference_b))

    Args:
        policy, reference: [B] nats, log-probabilities of answer b + 1 after prompt b.

    Returns:
        [] nats, >= 0, without gradient.

    Example:
        >>> mismatched_divergence(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0])).item()
        0.5

    Source: Ethayarajh et al. 2024, section 4.1.
    """
    return (policy - reference).mean().clamp(min=0).detach()
