"""Odds-ratio preference optimization: fine-tuning and preferences in one loss, without a reference.

Shape letters: B pairs.

Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.loss.check import check_range, expect, upcast

MAX_LOGP = -1e-6
"""A mean log-probability above this (probability 1) would have infinite odds."""


class ORPO(NamedTuple):
    """Losses of the pairs, and their parts.

    Fields:
        losses: [B] float32.
        log_odds_ratio: [B] float32, without gradient; above 0 the chosen one is likelier.
        chosen_rewards, rejected_rewards: [B] float32, β times the mean log-probability, without gradient.
    """

    losses: Tensor
    log_odds_ratio: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def orpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    beta: float | Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
) -> ORPO:
    """Computes the loss of each pair: the chosen completion's cross-entropy plus a penalty on the odds ratio.

    Fine-tuning on chosen completions alone also raises the probability of similar rejected ones. A penalty on
    the odds ratio prevents that; a ratio of probabilities would be too strong without a reference.

        p̄ = (log-probability of the completion) / (its tokens),     odds = e^p̄ / (1 - e^p̄)
        loss = -p̄_chosen - β log σ(log odds_chosen - log odds_rejected)

    Args:
        policy_chosen, policy_rejected: [B] float, nats, log-probability of the completion, summed over its
            tokens.
        beta: λ of the paper, >= 0; 0.1 there, 0 is fine-tuning on the chosen completions only.
        chosen_tokens, rejected_tokens: [B] number, tokens of each completion.

    Returns:
        ORPO(losses [B], log_odds_ratio [B], chosen_rewards [B], rejected_rewards [B]), float32, or float64 as
        given; all but the losses without gradient.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args, `check_range` for beta.
        2. Mean log-probabilities p̄ of both completions [B], in at least float32 (`upcast`): divided by the
            tokens (float32, at least 1), and clamped to at most `MAX_LOGP`.
        3. Log-odds [B]: p̄ minus log(1 - e^p̄), by `_log_complement`; then chosen minus rejected.
        4. Losses [B], with `F.logsigmoid`.
        5. Rewards β p̄ of both [B]; detach all but the losses.

    Edge cases: a completion without tokens counts as one token; mean log-probabilities are clamped to -1e-6,
    as the odds of probability 1 are infinite; no pairs give no losses.

    Raises:
        ValueError: if the shapes are not [B], or beta is negative.
        TypeError: for log-probabilities that are not floating.

    Example:
        Both completions have probability 1/2 a token: odds 1, so log 2 + 0.1 log 2.

        >>> half = torch.tensor([0.5]).log()
        >>> two, one = torch.tensor([2]), torch.tensor([1])
        >>> result = orpo_loss(2 * half, half, beta=0.1, chosen_tokens=two, rejected_tokens=one)
        >>> round(result.losses.item(), 4), result.log_odds_ratio.item()
        (0.7625, 0.0)

    Source: Hong et al. 2024, equations 4 to 7.
    """
    # 1. Check.
    expect(
        "orpo_loss",
        policy_chosen=(policy_chosen, "B", "float"),
        policy_rejected=(policy_rejected, "B", "float"),
        chosen_tokens=(chosen_tokens, "B", "number"),
        rejected_tokens=(rejected_tokens, "B", "number"),
    )
    check_range("orpo_loss", "at least 0", beta=beta)
    # 2. Mean log-probabilities [B].
    policy_chosen, policy_rejected = upcast(policy_chosen), upcast(policy_rejected)
    chosen = (policy_chosen / chosen_tokens.float().clamp(min=1)).clamp(max=MAX_LOGP)
    rejected = (policy_rejected / rejected_tokens.float().clamp(min=1)).clamp(max=MAX_LOGP)
    # 3. Log-odds ratio [B].
    log_odds_ratio = (chosen - _log_complement(chosen)) - (rejected - _log_complement(rejected))
    # 4. Losses [B].
    losses = -chosen - beta * F.logsigmoid(log_odds_ratio)
    # 5. Rewards [B].
    return ORPO(losses, log_odds_ratio.detach(), (beta * chosen).detach(), (beta * rejected).detach())


def _log_complement(x: Tensor) -> Tensor:
    """Computes log(1 - e^x) for x < 0."""
    return torch.log(-torch.expm1(x))
