"""Advantages within a group: the reward of a completion relative to the others of its prompt.

Shape letters: N prompts, G completions a prompt (the group).

Shao et al., "DeepSeekMath", 2024 (GRPO); Liu et al., "Understanding R1-Zero-Like Training", 2025 (no
division); Ahmadian et al., "Back to Basics", 2024 (leave one out).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import check_range, expect

SCALES = ("group", "batch", "none")


def group_advantages(rewards: Tensor, *, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Computes the advantage of each completion from the rewards of its group.

        advantage = (reward - mean of the group) / (std + eps)

    Args:
        rewards: [N, G], without unit. NaN or an infinity marks an unscored completion.
        scale: divide by the standard deviation (with n - 1) of the "group", of the "batch", or not ("none"):
            division gives more weight to very easy and very hard prompts, whose rewards vary little.
        eps: added to the standard deviation.

    Returns:
        [N, G] float32; sums to 0 in each group. Computed in float64, where squares of float32 do not
        overflow.

    Edge cases: a group of one, a group of equal rewards and an unscored completion have advantage exactly 0
    (not rounding errors divided by rounding errors); the scored completions of a group are compared with each
    other only.

    Raises:
        ValueError: for another scale, rewards that are not [N, G], or a negative eps.
        TypeError: for rewards that are not floating.

    Example:
        Mean 1, standard deviation 1; the second group has equal rewards.

        >>> group_advantages(torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]), eps=0.0)
        tensor([[-1.,  0.,  1.],
                [ 0.,  0.,  0.]])

    Source: Shao et al. 2024, section 4.1.2; Liu et al. 2025, section 3 (no division).
    """
    if scale not in SCALES:
        raise ValueError(f"group_advantages: scale must be one of {', '.join(SCALES)}, got {scale!r}")
    expect("group_advantages", rewards=(rewards, "N G", "float"))
    check_range("group_advantages", "at least 0", eps=eps)
    scored = rewards.isfinite()
    values = torch.where(scored, rewards.double(), 0.0)
    mean = values.sum(1, keepdim=True) / scored.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(scored & ~equal_rewards(rewards)[:, None], values - mean, 0.0)
    if scale == "none":
        return centred.float()
    deviation = _group_deviation(centred, scored) if scale == "group" else _batch_deviation(values, scored)
    return (centred / torch.where(deviation > 0, deviation + eps, 1.0)).float()


def equal_rewards(rewards: Tensor) -> Tensor:
    """Marks groups in which all scored completions have the same reward, or fewer than two are scored.

    Args:
        rewards: [N, G]; NaN or infinite for an unscored completion.

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
    scored = rewards.isfinite()
    if not rewards.shape[1]:
        return scored.new_ones(len(rewards))
    high = torch.where(scored, rewards, -torch.inf).amax(1)
    return torch.where(scored, rewards, torch.inf).amin(1) >= high


def leave_one_out(rewards: Tensor) -> Tensor:
    """Computes the advantage of each completion over the mean of the others in its group.

        advantage_i = reward_i - mean_{j ≠ i} reward_j = G/(G - 1) (reward_i - mean of all)

    The baseline does not depend on the completion itself, so the policy gradient is unbiased.

    Args:
        rewards: [N, G]; NaN or an infinity marks an unscored completion.

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
    scored = rewards.isfinite().sum(1, keepdim=True)
    return group_advantages(rewards, scale="none") * scored / (scored - 1).clamp(min=1)


def _group_deviation(centred: Tensor, scored: Tensor) -> Tensor:
    """[N, 1] standard deviation of each group, with n - 1."""
    return (centred.square().sum(1, keepdim=True) / (scored.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def _batch_deviation(values: Tensor, scored: Tensor) -> Tensor:
    """[] standard deviation of all rewards, with n - 1."""
    count = scored.sum()
    centred = torch.where(scored, values - values.sum() / count.clamp(min=1), 0.0)
    return (centred.square().sum() / (count - 1).clamp(min=1)).sqrt()
