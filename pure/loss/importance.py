"""Truncated importance weights: a policy loss on tokens that another program sampled.

A fast sampler computes the same policy with other kernels and in another precision, so that its probabilities
differ a little from the trainer's: the tokens are off-policy, although the weights are the same.

Shape letters: B completions, T tokens.

Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025; Ionides,
"Truncated Importance Sampling", 2008.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import check_range, expect, upcast

LEVELS = ("token", "sequence")
IMPORTANCE_METRICS = (
    "sampling/importance_sampling_ratio/mean",
    "sampling/importance_sampling_ratio/capped_mean",
)
"""Names of the metrics of `importance_metrics`."""


def importance_weights(
    logps: Tensor, sampler_logps: Tensor, mask: Tensor, *, cap: float | Tensor, level: str = "token"
) -> Tensor:
    """Computes the weight by which the loss of each token is multiplied.

    The weights turn a mean over the sampler's tokens into one over the trainer's. Their cap bounds the
    variance, at the price of a small bias: one token that the sampler found nearly impossible would outweigh
    all others.

        token      weight_t = min(exp(logps_t - sampler_logps_t), cap)
        sequence   weight_t = min(exp(Σ_s (logps_s - sampler_logps_s)), cap), the same for all t of a row

    A loss with one ratio per token takes "token", one with a ratio per completion (GSPO, RLOO) "sequence".

    Args:
        logps: [B, T] float, nats, of the sampled tokens, as the trainer computes them with the params that
            the sampler had: those of the behaviour policy, not of the policy that is trained.
        sampler_logps: [B, T] float, nats, of the same tokens, as the sampler computed them, over the same
            distribution (temperature, and the whole vocabulary: see the edge cases).
        mask: [B, T] bool, True on the completion's tokens.
        cap: largest weight, > 0, without gradient; TRL's recipe of the paper has 2.
        level: "token" or "sequence".

    Returns:
        [B, T] in (0, cap], without gradient; 1 where masked; float32, or float64 as given.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args, `check_range` for the cap, and a
            level of `LEVELS`.
        2. Log-ratios [B, T], in at least float32 (`upcast`), 0 where masked, detached.
        3. For "sequence" replace each by the sum of its row, [B, T].
        4. Weights [B, T]: the exponential, at most the cap. Take the minimum with log cap first, so that no
            exponential overflows, and with the cap again after it; 1 where masked.

    Edge cases: a sampler that draws from truncated probabilities (top-k, top-p, min-p) and reports them has
    logps - sampler_logps = log S for every token, S the probability that was kept: the weights are then too
    small by the factor S, which is no difference of policies. Do not use them so.

    Raises:
        ValueError: for another shape or level, or a cap not above 0.
        TypeError: for another dtype, such as a mask of 0 and 1.

    Example:
        The trainer finds the first token 1.5 times as likely as the sampler, the second 4 times.

        >>> sampler, mask = torch.zeros(1, 2), torch.ones(1, 2).bool()
        >>> importance_weights(torch.tensor([[1.5, 4.0]]).log(), sampler, mask, cap=2.0)
        tensor([[1.5000, 2.0000]])

    Source: Yao et al. 2025, the section on truncated importance sampling, which multiplies the whole clipped
    loss of PPO; "sequence" is TRL's "sequence_truncate".
    """
    # 1. Check.
    expect(
        "importance_weights",
        logps=(logps, "B T", "float"),
        sampler_logps=(sampler_logps, "B T", "float"),
        mask=(mask, "B T", "bool"),
    )
    check_range("importance_weights", "above 0", cap=cap)
    if level not in LEVELS:
        raise ValueError(f"importance_weights: level must be one of {', '.join(LEVELS)}, got {level!r}")
    # 2. Log-ratios [B, T].
    log_ratio = torch.where(mask, upcast(logps) - upcast(sampler_logps), 0.0).detach()
    # 3. Sums of rows [B, T].
    if level == "sequence":
        log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
    # 4. Weights [B, T].
    largest = torch.as_tensor(cap, dtype=log_ratio.dtype, device=log_ratio.device).detach()
    weights = torch.minimum(torch.minimum(log_ratio, largest.log()).exp(), largest)
    return torch.where(mask, weights, 1.0)


def importance_metrics(
    weights: Tensor, mask: Tensor, *, cap: float | Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Computes the mean of the importance weights, and the share of tokens whose weight is the cap.

    Args:
        weights: [B, T] from `importance_weights`.
        mask: [B, T] bool.
        cap: their cap.

    Returns:
        {name: (sum [], tokens [])}: sampling/importance_sampling_ratio/mean (TRL's name), and
        sampling/importance_sampling_ratio/capped_mean.

    Raises:
        ValueError: for another shape, or a cap not above 0.
        TypeError: for another dtype.

    Example:
        >>> mask = torch.ones(1, 2).bool()
        >>> metrics = importance_metrics(torch.tensor([[1.5, 2.0]]), mask, cap=2.0)
        >>> [total.item() / tokens.item() for total, tokens in metrics.values()]
        [1.75, 0.5]
    """
    expect("importance_metrics", weights=(weights, "B T", "float"), mask=(mask, "B T", "bool"))
    check_range("importance_metrics", "above 0", cap=cap)
    tokens = mask.sum().float()
    capped = mask & (upcast(weights) >= cap)
    return {
        IMPORTANCE_METRICS[0]: (torch.where(mask, upcast(weights), 0.0).sum(), tokens),
        IMPORTANCE_METRICS[1]: (capped.sum().float(), tokens),
    }
