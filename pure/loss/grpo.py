"""Group relative policy optimization: an answer is as good as it beats the others that were drawn for its prompt.

The training is in `stages/grpo.py`.

Shape letters: N prompts, G answers a prompt (the group), B answers, T tokens.

Shao et al., "DeepSeekMath", 2024 (GRPO). Variants: Liu et al., "Understanding R1-Zero-Like Training", 2025 (Dr. GRPO);
Yu et al., "DAPO", 2025; Zheng et al., "Group Sequence Policy Optimization", 2025 (GSPO); MiniMax, "MiniMax-M1", 2025
(CISPO); Ahmadian et al., "Back to Basics", 2024 (RLOO); Ye et al., "Mastering Complex Control in MOBA Games", 2020
(dual clip).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pure.loss.kl import LIMIT
from pure.loss.kl import kl as divergence

CLIPS: Mapping[str, tuple[float, float]] = {
    "grpo": (0.2, 0.2), "bnpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4),
    "cispo": (1.0, 4.0), "rloo": (0.2, 0.2),
}  # fmt: skip
"""Each variant, with how far the ratio may fall below and rise above 1 in its paper."""

SCALES = ("group", "batch", "none")


class PolicyLoss(NamedTuple):
    """A sum and what to divide it by, so that parts of a batch add up to the whole.

    Fields:
        sum: [] float32.
        count: [] float32: answers, tokens, or answers times the longest length, as the variant says.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]


def group_advantages(rewards: Tensor, *, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Says how much better each answer is than the others of its group.

        advantage = (reward - mean of the group) / (std + eps)

    Args:
        rewards: [N, G], without unit. NaN stands for an answer that could not be judged.
        scale: whose standard deviation (with n - 1) divides: "group", "batch", or "none", as dividing weighs easy and
            hard prompts, whose rewards vary little, more than others.
        eps: added to the standard deviation.

    Returns:
        [N, G] float32; sums to 0 in each group.

    Edge cases: a group of one, a group of equal rewards and an answer that could not be judged have advantage exactly
    0 (the rounding of the mean does not count: divided by a deviation of rounding it would be a full advantage); the
    others of the group are compared among themselves.

    Raises:
        ValueError: for another scale, or rewards that are not [N, G].

    Example:
        Mean 1, standard deviation 1; in the second group nothing can be learned.

        >>> group_advantages(torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]), eps=0.0)
        tensor([[-1.,  0.,  1.],
                [ 0.,  0.,  0.]])

    Source: Shao et al. 2024, section 4.1.2; Liu et al. 2025, section 3 (no division).
    """
    if scale not in SCALES or rewards.ndim != 2:
        raise ValueError(
            f"group_advantages: expected rewards [N, G] and scale one of {', '.join(SCALES)}, got "
            f"{tuple(rewards.shape)} and {scale!r}"
        )
    judged = rewards.isfinite()
    values = torch.where(judged, rewards.float(), 0.0)
    mean = values.sum(1, keepdim=True) / judged.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(judged & ~equal_rewards(rewards)[:, None], values - mean, 0.0)
    if scale == "none":
        return centred
    deviation = _deviation(centred, judged) if scale == "group" else _spread(values, judged)
    return centred / torch.where(deviation > 0, deviation + eps, 1.0)


def equal_rewards(rewards: Tensor) -> Tensor:
    """Says which groups have nothing to compare: all that could be judged are equal, or fewer than two could be.

    Args:
        rewards: [N, G]; NaN or infinite where an answer could not be judged.

    Returns:
        [N] bool.

    Example:
        >>> equal_rewards(torch.tensor([[0.7, 0.7, torch.nan], [0.7, 0.8, 0.7]]))
        tensor([ True, False])
    """
    judged = rewards.isfinite()
    high = torch.where(judged, rewards, -torch.inf).amax(1)
    return torch.where(judged, rewards, torch.inf).amin(1) >= high


def leave_one_out(rewards: Tensor) -> Tensor:
    """Compares each answer with the mean of the others of its group, which is no less fair and not biased by itself.

        advantage_i = reward_i - mean_{j ≠ i} reward_j = G/(G - 1) (reward_i - mean of all)

    Args:
        rewards: [N, G]; NaN stands for an answer that could not be judged.

    Returns:
        [N, G] float32; exactly 0 in a group of one or of equal rewards.

    Example:
        >>> leave_one_out(torch.tensor([[0.0, 1.0, 2.0]]))
        tensor([[-1.5000,  0.0000,  1.5000]])

    Source: Ahmadian et al. 2024, equation 8.
    """
    judged = rewards.isfinite().sum(1, keepdim=True)
    return group_advantages(rewards, scale="none") * judged / (judged - 1).clamp(min=1)


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    reference_logps: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    variant: str = "grpo",
    clip_low: float | None = None,
    clip_high: float | None = None,
    beta: float | Tensor = 0.0,
    kl: str = "k3",
    max_length: int | None = None,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """Sums the clipped policy loss over answers, with a penalty for leaving the reference.

        r_t = exp(logps - old_logps)
        token loss = -min(r_t A, clip(r_t, 1 - clip_low, 1 + clip_high) A) + β kl_t

        variant   ratio                            sum of                       count
        grpo      r_t                              means over each answer       B
        bnpo      r_t                              all tokens                   tokens
        dapo      r_t, clipped higher              all tokens                   tokens
        dr_grpo   r_t                              all tokens                   B · max_length
        gspo      exp(mean_t log r_t)              means over each answer       B
        cispo     -min(r_t, 1 + clip_high)° A logp_t   all tokens               tokens      (° without gradient)
        rloo      exp(Σ_t log r_t)                 one an answer                B

    Counts are divided by once, after adding micro-batches: so bnpo and dapo differ in their clipping alone.

    Args:
        logps: [B, T] nats, of the tokens that were drawn, under the policy that is trained.
        old_logps: [B, T] the same under the policy that drew them (never the reference).
        reference_logps: [B, T] the same under the frozen reference; None if beta is 0.
        advantages: [B], from `group_advantages` or `leave_one_out`.
        mask: [B, T] bool, True on the answer's tokens.
        variant: one of those above.
        clip_low, clip_high: how far the ratio may fall and rise; None takes the variant's own, in `CLIPS`.
        beta: weight of the divergence, >= 0.
        kl: estimator, see `pure.loss.kl.kl`.
        max_length: longest answer possible, tokens; dr_grpo needs it.
        dual_clip: c > 1: where A < 0 the loss is at most -c A, so that one token that has become far likelier cannot
            outweigh all others; None: no such bound. Not for cispo.

    Returns:
        PolicyLoss(sum [], count []).

    Steps:
        1. Masked positions are set to ratio 1 before anything can overflow.
        2. Ratio, by token or by answer; clamped to e^±20.
        3. Clipped objective.
        4. Divergence.
        5. Sums and counts.

    Edge cases: an answer without a token, and advantages 0, give 0 and (with beta 0) a gradient of exactly 0, in every
    variant. What an optimizer makes of a zero gradient is its own: Adam's momentum and a weight decay still move.

    Raises:
        ValueError: for an unknown variant, a negative clip, a dual clip of 1 or less, or if max_length or the reference
            is missing where it is needed.

    Example:
        A token twice as likely as when it was drawn, with advantage 1: the ratio counts as 1.2.

        >>> one = torch.ones(1, 1)
        >>> grpo_loss(one * 0.0, one * -0.6931, None, torch.tensor([1.0]), one.bool()).sum
        tensor(-1.2000)

    Source: Shao et al. 2024, equation 3; Yu et al. 2025, equation 8; Liu et al. 2025, section 3.2; Zheng et al. 2025,
    equations 5 and 7; MiniMax 2025, equations 4 and 5, without a lower bound; Ahmadian et al. 2024, equation 8, with a
    ratio and its clipping for batches used more than once; Ye et al. 2020, equation 4. Differs from them: the clamp.
    """
    low, high = clips(variant, clip_low, clip_high)
    if dual_clip is not None and (not dual_clip > 1 or variant == "cispo"):
        raise ValueError(f"grpo_loss: dual_clip must be above 1 and is not for cispo, got {dual_clip} for {variant!r}")
    if (variant == "dr_grpo" and max_length is None) or (reference_logps is None and _weighs(beta)):
        lacking = "max_length" if variant == "dr_grpo" and max_length is None else "reference_logps, as beta is not 0"
        raise ValueError(f"grpo_loss: variant {variant!r} needs {lacking}")
    # 1. Masked positions.
    logps = torch.where(mask, logps, 0.0)
    change = torch.where(mask, logps - old_logps, 0.0)
    tokens = mask.sum(-1, keepdim=True).clamp(min=1)
    # 2. Ratio.
    if variant in ("gspo", "rloo"):
        total = change.sum(-1, keepdim=True)
        change = total / tokens if variant == "gspo" else total
    ratio = change.clamp(-LIMIT, LIMIT).exp()
    # 3. Objective.
    a = advantages[:, None]
    if variant == "cispo":
        losses = -ratio.clamp(max=1 + high).detach() * a * logps
    else:
        losses = -torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)
        losses = losses if dual_clip is None else torch.where(a < 0, losses.clamp(max=-dual_clip * a), losses)
    losses = losses / tokens if variant == "rloo" else losses  # spread over its tokens, which are added below
    # 4. Divergence.
    if reference_logps is not None:
        losses = losses + beta * divergence(logps, torch.where(mask, reference_logps, 0.0), kl)
    # 5. Sums.
    losses = torch.where(mask, losses, 0.0)
    answers = torch.tensor(float(len(mask)), device=mask.device)
    if variant in ("grpo", "gspo"):
        return PolicyLoss((losses.sum(-1) / tokens[:, 0]).sum(), answers)
    if variant in ("rloo", "dr_grpo"):
        return PolicyLoss(losses.sum(), answers * (max_length if variant == "dr_grpo" and max_length else 1))
    return PolicyLoss(losses.sum(), mask.sum().float())


def clips(variant: str, low: float | None, high: float | None) -> tuple[float, float]:
    """Says how far the ratio may fall below and rise above 1: as given, or as in the variant's paper.

    Raises:
        ValueError: for an unknown variant or a negative distance.

    Example:
        >>> clips("dapo", None, None), clips("dapo", 0.1, None)
        ((0.2, 0.28), (0.1, 0.28))
    """
    if variant not in CLIPS:
        raise ValueError(f"grpo_loss: variant must be one of {', '.join(CLIPS)}, got {variant!r}")
    chosen = (CLIPS[variant][0] if low is None else low, CLIPS[variant][1] if high is None else high)
    if min(chosen) < 0:
        raise ValueError(f"grpo_loss: clip_low and clip_high are distances from 1, at least 0, got {chosen}")
    return chosen


def policy_metrics(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, *, clip_low: float, clip_high: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """Says how many tokens were clipped, on which side, and how far the policy has gone from the one that drew.

    Args:
        logps, old_logps: [B, T] nats.
        advantages: [B] or [B, T].
        mask: [B, T] bool.
        clip_low, clip_high: as in `grpo_loss`.

    Returns:
        {name: (sum [], tokens [])}, TRL's names: clip_ratio/low_mean, clip_ratio/high_mean, clip_ratio/region_mean,
        and approx_kl (k3 between the two, nats).
    """
    a = advantages[:, None] if advantages.ndim == 1 else advantages
    change = torch.where(mask, logps - old_logps, 0.0).detach()
    ratio = change.clamp(-LIMIT, LIMIT).exp()
    low = (ratio < 1 - clip_low) & (a < 0) & mask
    high = (ratio > 1 + clip_high) & (a > 0) & mask
    moved = divergence(change, torch.zeros_like(change), "k3")
    found = {"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": low | high}
    tokens = mask.sum().float()
    return {**{name: (x.sum().float(), tokens) for name, x in found.items()}, "approx_kl": (moved.sum(), tokens)}


def _deviation(centred: Tensor, judged: Tensor) -> Tensor:
    """[N, 1] standard deviation of each group, with n - 1."""
    return (centred.square().sum(1, keepdim=True) / (judged.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def _spread(values: Tensor, judged: Tensor) -> Tensor:
    """[] standard deviation of all rewards, with n - 1."""
    count = judged.sum()
    centred = torch.where(judged, values - values.sum() / count.clamp(min=1), 0.0)
    return (centred.square().sum() / (count - 1).clamp(min=1)).sqrt()


def _weighs(beta: float | Tensor) -> bool:
    """Whether the divergence counts; a tensor's value is not looked at."""
    return isinstance(beta, Tensor) or beta != 0
