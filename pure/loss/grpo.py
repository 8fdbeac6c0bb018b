"""Group relative policy optimization: a completion's advantage is relative to the others of its prompt.

The training is in `stages/grpo.py`.

Shape letters: N prompts, G completions per prompt (the group), B completions, T tokens.

Shao et al., "DeepSeekMath", 2024 (GRPO). Variants: Liu et al., "Understanding R1-Zero-Like Training", 2025
(Dr. GRPO); Yu et al., "DAPO", 2025; Zheng et al., "Group Sequence Policy Optimization", 2025 (GSPO); MiniMax,
"MiniMax-M1", 2025 (CISPO); Ahmadian et al., "Back to Basics", 2024 (RLOO); Ye et al., "Mastering Complex
Control in MOBA Games", 2020 (dual clip).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pure.loss.check import check_range, expect, may_be_nonzero, upcast
from pure.loss.kl import ESTIMATORS, LIMIT
from pure.loss.kl import kl as divergence

CLIPS: Mapping[str, tuple[float, float]] = {
    "grpo": (0.2, 0.2), "bnpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4),
    "cispo": (1.0, 4.0), "rloo": (0.2, 0.2),
}  # fmt: skip
"""Variant -> (clip_low, clip_high) of its paper: how far the ratio may fall below 1 and rise above it."""


class PolicyLoss(NamedTuple):
    """Sum of the losses and its divisor, both of which add up over micro-batches.

    Fields:
        sum: [] float32.
        count: [] float32, by variant: completions, tokens, or completions times the maximal length.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    reference_logps: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    variant: str = "grpo",
    clip_low: float | Tensor | None = None,
    clip_high: float | Tensor | None = None,
    beta: float | Tensor = 0.0,
    kl: str = "k3",
    max_length: int | Tensor | None = None,
    dual_clip: float | Tensor | None = None,
    token_weights: Tensor | None = None,
) -> PolicyLoss:
    """Sums the clipped policy loss over completions, with a KL penalty to the reference.

    A ratio above 1 means that a token is likelier than when it was sampled. Clipping ends the gradient once
    it has moved far in the direction that A rewards: the advantages hold only near the behaviour policy.

        r_t = exp(logps - old_logps)
        token loss = -min(r_t A, clip(r_t, 1 - clip_low, 1 + clip_high) A) + β kl_t

        variant   ratio                            sum of                       count
        grpo      r_t                              means over each completion   B
        bnpo      r_t                              all tokens                   tokens
        dapo      r_t, with a larger clip_high     all tokens                   tokens
        dr_grpo   r_t                              all tokens                   B · max_length
        cispo     see below                        all tokens                   tokens
        gspo      exp(mean_t log r_t)              one per completion           B
        rloo      exp(Σ_t log r_t)                 one per completion           B

    The token loss of cispo is -min(r_t, 1 + clip_high) A logp_t, the minimum without gradient. The sums of
    micro-batches are divided once by their counts, so bnpo and dapo differ only in clipping.

    Args:
        logps: [B, T] float, nats, of the sampled tokens, under the policy that is trained.
        old_logps: [B, T] float, the same under the behaviour policy, which sampled them (never the
            reference).
        reference_logps: [B, T] float, the same under the frozen reference; None if beta is 0.
        advantages: [B] float, A, from `pure.loss.advantages`.
        mask: [B, T] bool, True on the completion's tokens.
        variant: one of the seven above.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]; None takes the variant's
            own, in `CLIPS`.
        beta: weight of the KL penalty, >= 0.
        kl: estimator, see `pure.loss.kl.kl`.
        max_length: longest possible completion, tokens, a number or a [] tensor; dr_grpo needs it.
        dual_clip: c > 1: where A < 0 the loss is at most -c A, so that one token with a large ratio cannot
            dominate; None sets no bound. Not for cispo.
        token_weights: [B, T] float, by which the losses of tokens are multiplied, before the KL penalty and
            without gradient, such as `pure.loss.importance.importance_weights`; None: 1.

    Returns:
        PolicyLoss(sum [], count []), float32 (the sum float64 as given); below 0 where tokens of advantage
        above 0 became likelier.

    Steps:
        1. Check the arguments by `_check_arguments`, which takes those of this function; the clips, None or
            not, by `clip_bounds`.
        2. Set masked positions to 0 in logps (in at least float32, `upcast`) and in log r_t [B, T], before
            anything can overflow. Count the tokens of each completion, [B, 1], at least 1.
        3. For gspo and rloo reduce log r_t to one number a completion, [B, 1]. Ratio: the exponential of the
            log-ratio clamped to ±LIMIT.
        4. Token losses [B, T] or [B, 1] by the formulas, clipping with `_clamp`; for cispo the minimum is
            detached. A dual clip bounds them by -c A where A < 0.
        5. For rloo divide by the completion's tokens, as step 7 sums over them; multiply by the token
            weights, upcast and detached.
        6. With a reference add β times the KL of each token [B, T], by `divergence(policy, reference, kl)` of
            the logps of step 2 and of reference logps set to 0 where masked.
        7. Set masked losses to 0 [B, T] and sum them; for grpo and gspo divide each row by its tokens first.
            Count, float32: as in the table.

    Edge cases: a completion without tokens, or with advantage 0, has loss 0 and (with beta 0) a gradient of
    exactly 0, in every variant. An optimizer may still move the params: by Adam's momentum or weight decay.

    Raises:
        ValueError: for another shape, an unknown variant or kl, a negative clip or beta, a max_length below
            1, a dual clip of 1 or less, or if max_length or the reference is missing where it is needed.
        TypeError: for another dtype, such as a mask of 0 and 1.

    Example:
        A token twice as likely as when it was sampled, with advantage 1: the ratio is clipped to 1.2.

        >>> one = torch.ones(1, 1)
        >>> grpo_loss(one * 0.0, one * -0.6931, None, torch.tensor([1.0]), one.bool()).sum
        tensor(-1.2000)

    Source: Shao et al. 2024, equation 3; Yu et al. 2025, equation 8; Liu et al. 2025, section 3.2; Zheng et
    al. 2025, equations 5 and 7; MiniMax 2025, equations 4 and 5, without a lower bound; Ahmadian et al. 2024,
    equation 8, with a clipped ratio for batches that are used more than once; Ye et al. 2020, equation 4.
    Differs from them: the clamp.
    """
    # 1. Check.
    _check_arguments(
        logps,
        old_logps,
        reference_logps,
        advantages,
        mask,
        variant=variant,
        clip_low=clip_low,
        clip_high=clip_high,
        beta=beta,
        kl=kl,
        max_length=max_length,
        dual_clip=dual_clip,
        token_weights=token_weights,
    )
    low, high = clip_bounds(variant, clip_low, clip_high)
    # 2. Masked positions [B, T].
    logps = torch.where(mask, upcast(logps), 0.0)
    log_ratio = torch.where(mask, logps - upcast(old_logps), 0.0)
    tokens = mask.sum(-1, keepdim=True).clamp(min=1)
    # 3. Ratio [B, T] or [B, 1].
    if variant in ("gspo", "rloo"):
        total = log_ratio.sum(-1, keepdim=True)
        log_ratio = total / tokens if variant == "gspo" else total
    ratio = log_ratio.clamp(-LIMIT, LIMIT).exp()
    # 4. Token losses [B, T] or [B, 1].
    a = advantages[:, None]
    if variant == "cispo":
        losses = -ratio.clamp(max=1 + high).detach() * a * logps
    else:
        losses = -torch.minimum(ratio * a, _clamp(ratio, 1 - low, 1 + high) * a)
        if dual_clip is not None:
            losses = torch.where(a < 0, losses.clamp(max=-dual_clip * a), losses)
    # 5. Weights.
    if variant == "rloo":
        losses = losses / tokens  # one loss per completion, spread over its tokens, which are summed below
    if token_weights is not None:
        losses = losses * upcast(token_weights).detach()
    # 6. KL penalty [B, T].
    if reference_logps is not None:
        losses = losses + beta * divergence(logps, torch.where(mask, reference_logps, 0.0), kl)
    # 7. Sum and count, [] each.
    losses = torch.where(mask, losses, 0.0)
    completions = torch.tensor(float(len(mask)), device=mask.device)
    if variant in ("grpo", "gspo"):
        return PolicyLoss((losses.sum(-1) / tokens[:, 0]).sum(), completions)
    if variant == "rloo":
        return PolicyLoss(losses.sum(), completions)
    if variant == "dr_grpo" and max_length is not None:
        return PolicyLoss(losses.sum(), completions * max_length)
    return PolicyLoss(losses.sum(), mask.sum().float())


def clip_bounds(
    variant: str, low: float | Tensor | None, high: float | Tensor | None
) -> tuple[float | Tensor, float | Tensor]:
    """Returns (clip_low, clip_high), each as given, or that of the variant's paper for None.

    Args:
        variant: a key of `CLIPS`.
        low, high: clip_low and clip_high, >= 0, or None.

    Returns:
        (clip_low, clip_high).

    Raises:
        ValueError: for an unknown variant or a negative clip.

    Example:
        >>> clip_bounds("dapo", None, None), clip_bounds("dapo", 0.1, None)
        ((0.2, 0.28), (0.1, 0.28))
    """
    if variant not in CLIPS:
        raise ValueError(f"grpo_loss: variant must be one of {', '.join(CLIPS)}, got {variant!r}")
    default_low, default_high = CLIPS[variant]
    low = default_low if low is None else low
    high = default_high if high is None else high
    check_range("grpo_loss", "at least 0", clip_low=low, clip_high=high)
    return low, high


def _check_arguments(
    logps: Tensor,
    old_logps: Tensor,
    reference_logps: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    variant: str,
    clip_low: float | Tensor | None,
    clip_high: float | Tensor | None,
    beta: float | Tensor,
    kl: str,
    max_length: int | Tensor | None,
    dual_clip: float | Tensor | None,
    token_weights: Tensor | None,
) -> None:
    """Checks the arguments of `grpo_loss`: shapes, dtypes, ranges, and what its variant needs."""
    clip_bounds(variant, clip_low, clip_high)
    expect(
        "grpo_loss",
        logps=(logps, "B T", "float"),
        old_logps=(old_logps, "B T", "float"),
        reference_logps=(reference_logps, "B T", "float?"),
        advantages=(advantages, "B", "float"),
        mask=(mask, "B T", "bool"),
        token_weights=(token_weights, "B T", "float?"),
    )
    check_range("grpo_loss", "at least 0", beta=beta)
    check_range("grpo_loss", "at least 1", optional=True, max_length=max_length)
    check_range("grpo_loss", "above 1", optional=True, dual_clip=dual_clip)
    if kl not in ESTIMATORS:
        raise ValueError(f"grpo_loss: kl must be one of {', '.join(ESTIMATORS)}, got {kl!r}")
    if dual_clip is not None and variant == "cispo":
        raise ValueError(f"grpo_loss: dual_clip is not for cispo, got {dual_clip}; give None")
    if variant == "dr_grpo" and max_length is None:
        raise ValueError(
            "grpo_loss: variant 'dr_grpo' needs max_length, got None; give the longest completion"
        )
    if reference_logps is None and may_be_nonzero(beta):
        raise ValueError(
            f"grpo_loss: variant {variant!r} needs reference_logps for beta {beta}; give them or beta=0"
        )


def _clamp(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Clamps to [low, high]; given a number and a tensor, torch's clamp would read the tensor's value."""
    if isinstance(low, Tensor) == isinstance(high, Tensor):
        return x.clamp(low, high)  # type: ignore[arg-type]
    return x.clamp(min=low).clamp(max=high)
