"""Advantages within a group: how much better an answer is than the others that were drawn for its prompt.

Shape letters: N prompts, G answers a prompt (the group).

Shao et al., "DeepSeekMath", 2024 (GRPO); Liu et al., "Understanding R1-Zero-Like Training", 2025 (no
division); Ahmadian et al., "Back to Basics", 2024 (leave one out).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import expect, number

SCALES = ("group", "batch", "none")


def group_advantages(rewards: Tensor, *, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Says how much better each answer is than the others of its group.

        advantage = (reward - mean of the group) / (std + eps)

    Args:
        rewards: [N, G], without unit. NaN stands for an answer that could not be judged.
        scale: whose standard deviation (with n - 1) divides: "group", "batch", or "none", as dividing weighs
            easy and hard prompts, whose rewards vary little, more than others.
        eps: added to the standard deviation.

    Returns:
        [N, G] float32; sums to 0 in each group. Computed in float64, whose squares no reward of float32
        overflows.

    Edge cases: a group of one, a group of equal rewards and an answer that could not be judged have advantage
    exactly 0 (the rounding of the mean does not count: divided by a deviation of rounding it would be a full
    advantage); the others of the group are compared among themselves.

    Raises:
        ValueError: for another scale, rewards that are not [N, G], or a negative eps.
        TypeError: for rewards that are not floating.

    Example:
        Mean 1, standard deviation 1; in the second group nothing can be learned.

        >>> group_advantages(torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]), eps=0.0)
        tensor([[-1.,  0.,  1.],
                [ 0.,  0.,  0.]])

    Source: Shao et al. 2024, section 4.1.2; Liu et al. 2025, section 3 (no division).
    """
    if scale not in SCALES:
        raise ValueError(f"group_advantages: scale must be one of {', '.join(SCALES)}, got {scale!r}")
    expect("group_advantages", rewards=(rewards, "N G", "float"))
    number("group_advantages", "at least 0", eps=eps)
    judged = rewards.isfinite()
    values = torch.where(judged, rewards.double(), 0.0)
    mean = values.sum(1, keepdim=True) / judged.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(judged & ~equal_rewards(rewards)[:, None], values - mean, 0.0)
    if scale == "none":
        return centred.float()
    deviation = _deviation(centred, judged) if scale == "group" else _spread(values, judged)
    return (centred / torch.where(deviation > 0, deviation + eps, 1.0)).float()


def equal_rewards(rewards: Tensor) -> Tensor:
    """Says which groups have nothing to compare: all that could be judged are equal, or fewer than two could
    be.

    Args:
        rewards: [N, G]; NaN or infinite where an answer could not be judged.

    Returns:
        [N] bool.

    Raises:
        ValueError: if rewards are not [N, G].
        TypeError: if they are not floating.

    Example:
        >>> equal_rewards(torch.tensor([[0.7, 0.7, torch.nan], [0.7, 0.8, 0.7]]))
        tensor([ True, False])
    """
    expect("equal_rewards", rewards=(rewards, "N G", "float"))
    judged = rewards.isfinite()
    if not rewards.shape[1]:
        return judged.new_ones(len(rewards))
    high = torch.where(judged, rewards, -torch.inf).amax(1)
    return torch.where(judged, rewards, torch.inf).amin(1) >= high


def leave_one_out(rewards: Tensor) -> Tensor:
    """Compares each answer with the mean of the others of its group, which is no less fair and not biased by
    itself.

        advantage_i = reward_i - mean_{j ≠ i} reward_j = G/(G - 1) (reward_i - mean of all)

    Args:
        rewards: [N, G]; NaN stands for an answer that could not be judged.

    Returns:
        [N, G] float32; exactly 0 in a group of one or of equal rewards.

    Raises:
        ValueError: if rewards are not [N, G].
        TypeError: if they are not floating.

    Example:
        >>> leave_one_out(torch.tensor([[0.0, 1.0, 2.0]]))
        tensor([[-1.5000,  0.0000,  1.5000]])

    Source: Ahmadian et al. 2024, equation 8.
    """
    expect("leave_one_out", rewards=(rewards, "N G", "float"))
    judged = rewards.isfinite().sum(1, keepdim=True)
    return group_advantages(rewards, scale="none") * judged / (judged - 1).clamp(min=1)


def _deviation(centred: Tensor, judged: Tensor) -> Tensor:
    """[N, 1] standard deviation of each group, with n - 1."""
    return (centred.square().sum(1, keepdim=True) / (judged.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def _spread(values: Tensor, judged: Tensor) -> Tensor:
    """[] standard deviation of all rewards, with n - 1."""
    count = judged.sum()
    centred = torch.where(judged, values - values.sum() / count.clamp(min=1), 0.0)
    return (centred.square().sum() / (count - 1).clamp(min=1)).sqrt()
