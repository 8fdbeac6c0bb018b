"""Proximal policy optimization: small policy updates, with advantages per token from a value function.

The training is in `stages/ppo.py`.

Shape letters: B completions, T tokens.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017; "High-Dimensional Continuous Control Using
Generalized Advantage Estimation", 2016 (GAE).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.loss.check import check_range, expect, upcast
from pure.loss.grpo import PolicyLoss
from pure.loss.kl import LIMIT


class GAE(NamedTuple):
    """Advantages, and targets of the value function.

    Fields:
        advantages: [B, T] float32 or float64; 0 where masked.
        returns: [B, T] same dtype, advantages + values; 0 where masked.
    """

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float | Tensor = 1.0, lam: float | Tensor = 0.95
) -> GAE:
    """Estimates the advantage of each token by generalised advantage estimation.

    The one-step estimate has the bias of the value function; the estimate to the end has no bias but high
    variance. λ averages all horizons, with geometrically falling weights.

        δ_t = reward_t + γ value_{t+1} - value_t
        advantage_t = Σ_{s >= t} (γ λ)^(s - t) δ_s        value after the last token: 0

    Args:
        rewards: [B, T] float; usually 0 except for the last token, plus a KL penalty on each.
        values: [B, T] float, predicted before each token; receives no gradient.
        mask: [B, T] bool, True on the completion's tokens; masked tokens in the middle, such as a tool's
            output, are skipped: they are no time steps.
        gamma: γ in [0, 1], discount per token.
        lam: λ in [0, 1].

    Returns:
        GAE(advantages [B, T], returns [B, T]), without gradient, 0 where masked; float32, or float64 as
        given. An advantage above 0 means better than the value function predicted.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args, `check_range` for gamma and lam.
            Detach rewards and values, and cast both to their common dtype, at least float32.
        2. The value of the next unmasked token, [B, T], 0 after the last: `_discounted_sums` of the values,
            0 where masked, with factors 1 where masked and 0 elsewhere is the value of this or else the next
            unmasked token; `_next` moves it one step.
        3. The temporal-difference errors δ [B, T], 0 where masked.
        4. Their sums [B, T] by `_discounted_sums`, whose y_t = x_t + factors_t y_{t+1}: the factor is γ λ,
            and 1 where masked, as a masked token passes the sum on.
        5. Advantages and returns [B, T], 0 where masked.

    Edge cases: a row without tokens gives zeros.

    Raises:
        ValueError: for another shape, or gamma or lam outside [0, 1].
        TypeError: for another dtype, such as a mask of 0 and 1.

    Example:
        Reward 1 at the end, values 0: with γ = 1, λ = 1/2 the first token gets half of it.

        >>> rewards, values, mask = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), torch.ones(1, 2).bool()
        >>> gae(rewards, values, mask, gamma=1.0, lam=0.5).advantages
        tensor([[0.5000, 1.0000]])

    Source: Schulman et al. 2016, equations 11 to 16.
    """
    # 1. Check.
    expect(
        "gae", rewards=(rewards, "B T", "float"), values=(values, "B T", "float"), mask=(mask, "B T", "bool")
    )
    check_range("gae", "in [0, 1]", gamma=gamma, lam=lam)
    dtype = torch.promote_types(upcast(rewards).dtype, values.dtype)
    rewards, values = rewards.detach().to(dtype), values.detach().to(dtype)
    # 2. Next value [B, T].
    known = torch.where(mask, values, 0.0)
    following = _next(_discounted_sums((~mask).to(dtype), known))
    # 3. Errors [B, T].
    delta = torch.where(mask, rewards + gamma * following - values, 0.0)
    # 4. Discounted sums [B, T].
    advantages = _discounted_sums(torch.where(mask, torch.as_tensor(gamma * lam, dtype=dtype), 1.0), delta)
    # 5. Advantages and returns [B, T].
    advantages = torch.where(mask, advantages, 0.0)
    return GAE(advantages, torch.where(mask, advantages + values, 0.0))


def ppo_policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float | Tensor = 0.2,
    token_weights: Tensor | None = None,
) -> PolicyLoss:
    """Sums the clipped policy loss over tokens.

        r = exp(logps - old_logps),     loss = -min(r A, clip(r, 1 - clip, 1 + clip) A)

    Clipping removes the gradient once a ratio has moved further than `clip` from 1 in the direction that A
    rewards: the advantages were estimated for the behaviour policy, and hold only near it.

    Args:
        logps: [B, T] float, nats, under the policy that is trained.
        old_logps: [B, T] float, nats, under the behaviour policy, which sampled the tokens.
        advantages: [B, T] float, A, usually whitened.
        mask: [B, T] bool, True on the completion's tokens.
        clip: above 0; 0.2 in the paper.
        token_weights: [B, T] float, by which the losses of tokens are multiplied, without gradient, such as
            `pure.loss.importance.importance_weights`; None: 1.

    Returns:
        PolicyLoss(sum [], count [] tokens, float32). The sum is below 0 where tokens with A > 0 dominate.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args, `check_range` for the clip.
        2. Ratios r [B, T]: the exponential of the log-ratio in at least float32 (`upcast`), which is set to 0
            where masked and then clamped to ±LIMIT.
        3. Losses [B, T]: minus the smaller of r A and clipped r times A.
        4. Multiply by the token weights, upcast and detached.
        5. Sum the unmasked losses (`torch.where`), and count them.

    Edge cases: all masked gives (0, 0) and zero gradient; log-ratios are clamped to ±20.

    Raises:
        ValueError: for another shape, or a clip not above 0.
        TypeError: for another dtype, such as a mask of 0 and 1.

    Example:
        >>> one = torch.ones(1, 1)
        >>> ppo_policy_loss(one * 0.0, one * -0.6931, one, one.bool()).sum
        tensor(-1.2000)

    Source: Schulman et al. 2017, equation 7.
    """
    # 1. Check.
    expect(
        "ppo_policy_loss",
        logps=(logps, "B T", "float"),
        old_logps=(old_logps, "B T", "float"),
        advantages=(advantages, "B T", "float"),
        mask=(mask, "B T", "bool"),
        token_weights=(token_weights, "B T", "float?"),
    )
    check_range("ppo_policy_loss", "above 0", clip=clip)
    # 2. Ratios [B, T].
    log_ratio = torch.where(mask, upcast(logps) - upcast(old_logps), 0.0)
    ratio = log_ratio.clamp(-LIMIT, LIMIT).exp()
    # 3. Losses [B, T].
    clipped = ratio.clamp(1 - clip, 1 + clip)  # type: ignore[arg-type]
    losses = -torch.minimum(ratio * advantages, clipped * advantages)
    # 4. Weights [B, T].
    if token_weights is not None:
        losses = losses * upcast(token_weights).detach()
    # 5. Sum and count, [] each.
    return PolicyLoss(torch.where(mask, losses, 0.0).sum(), mask.sum().float())


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float | Tensor | None = 0.2
) -> PolicyLoss:
    """Sums half the squared errors of the value function, with the change of each value clipped.

    The larger of two errors counts: a value that has already moved by `clip` towards its return gets no more
    gradient, one that has moved away from it still does.

        loss = 1/2 max((v - return)², (clip(v, old - clip, old + clip) - return)²)

    Args:
        values: [B, T] float, v, from the value function that is trained.
        old_values: [B, T] float, from the value function before the update.
        returns: [B, T] float, from `gae`.
        mask: [B, T] bool, True on the completion's tokens.
        clip: largest change of a value, in units of the return, > 0; None does not clip.

    Returns:
        PolicyLoss(sum [] at least 0, count [] tokens, float32).

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args, `check_range` for the clip.
        2. Upcast the three tensors, and set masked values to 0.
        3. Squared errors [B, T].
        4. With a clip, those of old + clamp(v - old, ±clip) too, and the maximum of both, [B, T].
        5. Half the sum of the unmasked errors (`torch.where`), and their count.

    Edge cases: all masked gives (0, 0) and zero gradient.

    Raises:
        ValueError: for another shape, or a clip not above 0.
        TypeError: for another dtype, such as a mask of 0 and 1.

    Example:
        A change of 1 towards a return of 2 is clipped to 0.2: 1/2 · 1.8².

        >>> one = torch.ones(1, 1)
        >>> ppo_value_loss(one, 0 * one, 2 * one, one.bool()).sum
        tensor(1.6200)

    Source: Schulman et al. 2017, section 5, with the clipping of their code.
    """
    # 1. Check.
    expect(
        "ppo_value_loss",
        values=(values, "B T", "float"),
        old_values=(old_values, "B T", "float"),
        returns=(returns, "B T", "float"),
        mask=(mask, "B T", "bool"),
    )
    check_range("ppo_value_loss", "above 0", optional=True, clip=clip)
    # 2. Dtypes and mask [B, T].
    values, old_values, returns = torch.where(mask, upcast(values), 0.0), upcast(old_values), upcast(returns)
    # 3. Errors [B, T].
    errors = (values - returns).square()
    # 4. Errors of clipped values [B, T].
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)  # type: ignore[arg-type]
        errors = torch.maximum(errors, (clipped - returns).square())
    # 5. Sum and count, [] each.
    return PolicyLoss(torch.where(mask, errors, 0.0).sum() / 2, mask.sum().float())


def _discounted_sums(factors: Tensor, x: Tensor) -> Tensor:
    """Solves y_t = x_t + factors_t y_{t+1}, with y = 0 after the end: [..., T] each -> [..., T].

    By doubling: after round k, y_t is right for the next 2ᵏ steps. Memory is linear in T, and ⌈log₂ T⌉ rounds
    compile to a short program, where a loop over time would be T steps long.
    """
    shift = 1
    while shift < x.shape[-1]:
        x = x + factors * _next(x, shift)
        factors = factors * _next(factors, shift)
        shift *= 2
    return x


def _next(x: Tensor, shift: int = 1) -> Tensor:
    """The elements `shift` steps later, 0 after the end: [..., T] -> [..., T]."""
    return F.pad(x[..., shift:], (0, shift))
