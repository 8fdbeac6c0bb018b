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

    A reward says little by itself: 0.5 is good for a hard prompt and bad for an easy one. The mean of the
    group is a baseline without a value function.

        advantage = (reward - mean of the group) / (std + eps)

    Args:
        rewards: [N, G] float, without unit. NaN or an infinity marks an unscored completion.
        scale: divide by the standard deviation (with n - 1) of the "group", of the "batch", or not ("none"):
            division gives more weight to very easy and very hard prompts, whose rewards vary little.
        eps: >= 0, added to the standard deviation.

    Returns:
        [N, G] float32, above 0 where the reward is above the group's mean; sums to 0 in each group. Computed
        in float64, where squares of float32 do not overflow.

    Steps:
        1. Check the arguments: a scale of `SCALES`; `expect` with the dims and kinds under Args;
            `check_range` for eps.
        2. Mark the scored completions, whose reward is finite, [N, G] bool, and set the other rewards to 0,
            in float64.
        3. Mean of the scored rewards of each group, [N, 1]; of none, 0.
        4. Subtract it, [N, G]; exactly 0 for an unscored completion and in the groups of `equal_rewards`.
            For "none" this is the result.
        5. Standard deviation: `_group_deviation` of the centred rewards, [N, 1], or `_batch_deviation` of
            those of step 2, [].
        6. Divide by deviation + eps, and by 1 where the deviation is 0; then cast to float32.

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
    # 1. Check.
    if scale not in SCALES:
        raise ValueError(f"group_advantages: scale must be one of {', '.join(SCALES)}, got {scale!r}")
    expect("group_advantages", rewards=(rewards, "N G", "float"))
    check_range("group_advantages", "at least 0", eps=eps)
    # 2. Scored rewards [N, G].
    scored = rewards.isfinite()
    values = torch.where(scored, rewards.double(), 0.0)
    # 3. Means [N, 1].
    mean = values.sum(1, keepdim=True) / scored.sum(1, keepdim=True).clamp(min=1)
    # 4. Centred rewards [N, G].
    centred = torch.where(scored & ~equal_rewards(rewards)[:, None], values - mean, 0.0)
    if scale == "none":
        return centred.float()
    # 5. Deviation [N, 1] or [].
    deviation = _group_deviation(centred, scored) if scale == "group" else _batch_deviation(values, scored)
    # 6. Advantages [N, G].
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
        rewards: [N, G] float; NaN or an infinity marks an unscored completion, which G does not count.

    Returns:
        [N, G] float32, above 0 where the reward is above the mean of the others.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args.
        2. Count the scored completions n of each group, those with a finite reward: [N, 1].
        3. Multiply the difference from the group's mean, which is `group_advantages` with scale "none",
            [N, G], by n, then divide by n - 1 (by 1 if n is below 2).

    Edge cases: a group of one, a group of equal rewards and an unscored completion have advantage exactly 0.

    Raises:
        ValueError: if rewards are not [N, G].
        TypeError: if they are not floating.

    Example:
        >>> leave_one_out(torch.tensor([[0.0, 1.0, 2.0]]))
        tensor([[-1.5000,  0.0000,  1.5000]])

    Source: Ahmadian et al. 2024, equation 8.
    """
    # 1. Check.
    expect("leave_one_out", rewards=(rewards, "N G", "float"))
    # 2. Counts [N, 1].
    scored = rewards.isfinite().sum(1, keepdim=True)
    # 3. Advantages [N, G].
    centred = group_advantages(rewards, scale="none")
    return centred * scored / (scored - 1).clamp(min=1)


def _group_deviation(centred: Tensor, scored: Tensor) -> Tensor:
    """[N, 1] standard deviation of each group, with n - 1."""
    return (centred.square().sum(1, keepdim=True) / (scored.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def _batch_deviation(values: Tensor, scored: Tensor) -> Tensor:
    """[] standard deviation of all rewards, with n - 1."""
    count = scored.sum()
    centred = torch.where(scored, values - values.sum() / count.clamp(min=1), 0.0)
    return (centred.square().sum() / (count - 1).clamp(min=1)).sqrt()
