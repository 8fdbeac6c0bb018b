"""Direct preference optimization: learning from pairs of completions, without a reward model.

The training is in `stages/dpo.py`.

Shape letters: B pairs.

Rafailov et al., "Direct Preference Optimization", 2023. Variants: Mitchell, "A note on DPO with noisy
preferences", 2023 (conservative); Chowdhury et al., "Provably Robust DPO", 2024; Azar et al., "A General
Theoretical Paradigm to Understand Learning from Human Preferences", 2023 (IPO); Zhao et al., "SLiC-HF", 2023
(hinge); Meng et al., "SimPO", 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure.loss.check import check_range, expect, may_be_nonzero, upcast

VARIANTS = ("sigmoid", "conservative", "robust", "ipo", "hinge", "simpo")
SMOOTHED = ("conservative", "robust")
"""Variants for noisy preferences, which take `label_smoothing`."""

AVERAGED = ("ipo", "simpo")
"""Variants that divide a log-probability by the completion's tokens."""

LIMIT = 1e4
"""Log-ratios of completions are clamped to plus and minus this, nats."""


class DPO(NamedTuple):
    """Losses and implicit rewards of the pairs.

    Fields:
        losses: [B] float32.
        chosen_rewards, rejected_rewards: [B] float32, β times the log-ratio to the reference (SimPO: β times
            the mean log-probability), without gradient.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor | None,
    reference_rejected: Tensor | None,
    *,
    beta: float | Tensor,
    variant: str = "sigmoid",
    label_smoothing: float | Tensor = 0.0,
    margin: float | Tensor = 0.5,
    chosen_tokens: Tensor | None = None,
    rejected_tokens: Tensor | None = None,
) -> DPO:
    """Computes the loss of each pair.

    The optimal policy under a reward r and a KL penalty β is reference · exp(r/β). So a policy has the
    implicit reward r = β log(policy / reference), and a pair trains it to classify the better completion.

        h = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
        sigmoid       -log σ(β h)
        conservative  -(1-ε) log σ(β h) - ε log σ(-β h)
        robust        [-(1-ε) log σ(β h) + ε log σ(-β h)] / (1 - 2ε)
        ipo           (h̄ - 1/(2β))²              h̄: log-ratios divided by the tokens of each completion
        hinge         max(0, 1 - β h)
        simpo         -log σ(β ḡ - γ)             ḡ: difference of the mean log-probabilities

    Args:
        policy_chosen, policy_rejected: [B] float, nats, log-probability of the completion, summed over its
            tokens.
        reference_chosen, reference_rejected: [B] float, nats, the same under the frozen reference; None for
            simpo.
        beta: β > 0: reward per nat of log-ratio; 0.1 in the paper, 2 for simpo.
        variant: one of the six above.
        label_smoothing: ε, fraction of pairs assumed to be labelled wrongly, in [0, 0.5); conservative and
            robust only.
        margin: γ >= 0, target margin between chosen and rejected; simpo only.
        chosen_tokens, rejected_tokens: [B] number, tokens of each completion; ipo and simpo need them.

    Returns:
        DPO(losses [B], chosen_rewards [B], rejected_rewards [B]), float32, or float64 as given; rewards
        without gradient.

    Steps:
        1. Check the arguments by `_check_arguments`, which takes those of this function.
        2. Log-ratios to the reference [B], in at least float32 (`upcast`); without a reference the
            log-probabilities themselves.
        3. For the variants in `AVERAGED`, divide them by the tokens, with `_length`.
        4. h [B]: chosen minus rejected, clamped to ±LIMIT, so that one extreme pair cannot overflow; NaN
            where the difference is infinite.
        5. The variant's losses [B]: ipo and hinge (with `F.relu`) by their formulas, the others by
            `_logistic(z, variant, label_smoothing)` of z = β h, for simpo β h - γ.
        6. Rewards [B], detached: β times the numbers of step 2, for simpo those of step 3.

    Edge cases: equal log-probabilities everywhere give log 2 (sigmoid) and rewards 0; a completion without
    tokens counts as one token; a log-probability that is not finite gives NaN in spite of the clamp.

    Raises:
        ValueError: for an unknown variant, a missing reference or count of tokens, a reference with simpo, a
            label_smoothing with another variant, a shape that is not [B], or beta not above 0.
        TypeError: for log-probabilities that are not floating.

    Example:
        The policy has moved 1 nat towards the chosen and 1 nat from the rejected completion: β h = 0.2.

        >>> import torch
        >>> result = dpo_loss(*(torch.tensor([x]) for x in (-9.0, -11.0, -10.0, -10.0)), beta=0.1)
        >>> round(result.losses.item(), 4), round((result.chosen_rewards - result.rejected_rewards).item(), 4)
        (0.5981, 0.2)

    Source: Rafailov et al. 2023, equation 7; Mitchell 2023, equation 1; Chowdhury et al. 2024, equation 12;
    Azar et al. 2023, equation 17, with log-ratios divided by the tokens, as in the authors' code; Zhao et al.
    2023, equation 4; Meng et al. 2024, equation 6. Differs from them: the clamp.
    """
    # 1. Check.
    _check_arguments(
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta=beta,
        variant=variant,
        label_smoothing=label_smoothing,
        margin=margin,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )
    # 2. Log-ratios [B].
    chosen, rejected = upcast(policy_chosen), upcast(policy_rejected)
    if reference_chosen is not None and reference_rejected is not None:
        chosen, rejected = chosen - upcast(reference_chosen), rejected - upcast(reference_rejected)
    # 3. Averages [B].
    chosen_ratio, rejected_ratio = chosen, rejected
    if variant in AVERAGED:
        chosen_ratio = chosen / _length(chosen_tokens)
        rejected_ratio = rejected / _length(rejected_tokens)
    # 4. Difference h [B].
    difference = chosen_ratio - rejected_ratio
    h = torch.where(difference.isinf(), torch.nan, difference.clamp(-LIMIT, LIMIT))
    # 5. Losses [B].
    if variant == "ipo":
        losses = (h - 1 / (2 * beta)).square()
    elif variant == "hinge":
        losses = F.relu(1 - beta * h)
    else:
        losses = _logistic(beta * h - (margin if variant == "simpo" else 0.0), variant, label_smoothing)
    # 6. Rewards [B].
    if variant == "simpo":
        chosen, rejected = chosen_ratio, rejected_ratio
    return DPO(losses, (beta * chosen).detach(), (beta * rejected).detach())


def _logistic(z: Tensor, variant: str, smoothing: float | Tensor) -> Tensor:
    """-log σ(z), for labels that may be wrong."""
    correct, flipped = -F.logsigmoid(z), -F.logsigmoid(-z)
    if variant == "conservative":
        return (1 - smoothing) * correct + smoothing * flipped
    if variant == "robust":
        return ((1 - smoothing) * correct - smoothing * flipped) / (1 - 2 * smoothing)
    return correct


def _length(tokens: Tensor | None) -> Tensor:
    """Tokens of each completion, [B]; one without tokens counts as one token."""
    assert tokens is not None, "checked by _check_variant"
    return tokens.clamp(min=1)


def _check_arguments(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor | None,
    reference_rejected: Tensor | None,
    *,
    beta: float | Tensor,
    variant: str,
    label_smoothing: float | Tensor,
    margin: float | Tensor,
    chosen_tokens: Tensor | None,
    rejected_tokens: Tensor | None,
) -> None:
    """Checks the arguments of `dpo_loss`: the variant, shapes and dtypes, and ranges."""
    _check_variant(
        variant, label_smoothing, reference_chosen, reference_rejected, chosen_tokens, rejected_tokens
    )
    expect(
        "dpo_loss",
        policy_chosen=(policy_chosen, "B", "float"),
        policy_rejected=(policy_rejected, "B", "float"),
        reference_chosen=(reference_chosen, "B", "float?"),
        reference_rejected=(reference_rejected, "B", "float?"),
        chosen_tokens=(chosen_tokens, "B", "number?"),
        rejected_tokens=(rejected_tokens, "B", "number?"),
    )
    check_range("dpo_loss", "above 0", beta=beta)
    check_range("dpo_loss", "at least 0", margin=margin)


def _check_variant(
    variant: str,
    smoothing: float | Tensor,
    reference_chosen: Tensor | None,
    reference_rejected: Tensor | None,
    chosen_tokens: Tensor | None,
    rejected_tokens: Tensor | None,
) -> None:
    """Refuses arguments that contradict the variant."""
    if variant not in VARIANTS:
        raise ValueError(
            f"dpo_loss: variant must be one of {', '.join(VARIANTS)}, got {variant!r}; ORPO and KTO are "
            "in pure.loss.orpo and pure.loss.kto"
        )
    check_range("dpo_loss", "in [0, 0.5)", label_smoothing=smoothing)
    if may_be_nonzero(smoothing) and variant not in SMOOTHED:
        raise ValueError(
            f"dpo_loss: expected label_smoothing 0 with variant {variant!r}, got {smoothing}; "
            f"only {' and '.join(SMOOTHED)} take it"
        )
    references = (reference_chosen is not None) + (reference_rejected is not None)
    if variant == "simpo" and references:
        raise ValueError(f"dpo_loss: variant 'simpo' takes no reference, got {references}; pass None twice")
    if variant != "simpo" and references != 2:
        raise ValueError(
            f"dpo_loss: variant {variant!r} takes both references, got {references} of them; give "
            "reference_chosen and reference_rejected [B]"
        )
    if variant in AVERAGED and (chosen_tokens is None or rejected_tokens is None):
        raise ValueError(
            f"dpo_loss: variant {variant!r} divides by the completions' tokens; give chosen_tokens and "
            "rejected_tokens [B]"
        )
