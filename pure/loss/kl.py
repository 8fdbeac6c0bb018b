"""How far a policy has gone from its reference: estimators of the Kullback-Leibler divergence, one sample a
token.

Schulman, "Approximating KL Divergence", 2020 (k1, k2, k3); Ziegler et al., "Fine-Tuning Language Models from
Human Preferences", 2019 (the adaptive coefficient).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import expect, number, wide

ESTIMATORS = ("k1", "k2", "k3", "k3+")
LIMIT = 20.0
"""Log-ratios are clamped to plus and minus this before they are exponentiated: e^20 is 5e8, and still
finite."""


def kl(policy_logps: Tensor, reference_logps: Tensor, estimator: str = "k3") -> Tensor:
    """Estimates KL(policy ‖ reference) from the log-probabilities of tokens that the policy drew.

    The mean of each over many tokens is the divergence (of k2: nearly); they differ in spread, in sign, and
    in what their gradient is when they stand in a loss.

        d = reference - policy
        k1 = -d              unbiased, may be negative; its gradient is 0 in the mean, so it is no loss
        k2 = d²/2            biased, low spread; its gradient is the one of the divergence
        k3 = e^d - d - 1     unbiased, never negative; its gradient is biased (it is that of the reverse
        divergence) k3+ = the value of k3 with the gradient of k2

    Args:
        policy_logps: [...] nats, of the tokens that were drawn.
        reference_logps: [...] nats, of the same tokens under the reference; receives no gradient from k3+.
        estimator: "k1", "k2", "k3" or "k3+".

    Returns:
        [...] nats, for each token; float32, or float64 as given.

    Edge cases: equal log-probabilities give 0 and zero gradient (of k1: gradient 1). |d| above 20 counts as
    20, and such a token gives no gradient.

    Raises:
        ValueError: for another estimator, or shapes that differ.
        TypeError: for log-probabilities that are not floating.

    Example:
        The reference finds the token twice as likely: d = log 2.

        >>> d = torch.tensor(2.0).log()
        >>> [round(kl(torch.tensor(0.0), d, name).item(), 4) for name in ("k1", "k2", "k3")]
        [-0.6931, 0.2402, 0.3069]

    Source: Schulman 2020; the gradients after Tang and Munos, "On a few pitfalls in KL divergence gradient
    estimation for RL", 2025. Differs from it: the clamp.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"kl: estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    expect(
        "kl", policy_logps=(policy_logps, "...", "float"), reference_logps=(reference_logps, "...", "float")
    )
    d = (wide(reference_logps) - wide(policy_logps)).clamp(-LIMIT, LIMIT)
    if estimator == "k1":
        return -d
    k2 = d.square() / 2
    if estimator == "k2":
        return k2
    k3 = d.exp() - d - 1
    return k3 if estimator == "k3" else k2 + (k3 - k2).detach()


def adaptive_coefficient(
    coefficient: Tensor,
    divergence: Tensor,
    *,
    target: float | Tensor,
    horizon: float | Tensor,
    steps: int = 1,
) -> Tensor:
    """Raises the weight of the KL penalty where the policy strays too far, lowers it where it hardly moves.

        error = clip(divergence / target - 1, -0.2, 0.2)
        coefficient ← coefficient (1 + error · steps / horizon)

    Args:
        coefficient: [] float32, > 0, the weight until now (0.1 to begin with).
        divergence: [] nats, measured over the last batch.
        target: nats, > 0, what the divergence shall be (6 in the paper, summed over a completion).
        horizon: examples over which a full error changes the coefficient by a fifth (10,000 in the paper).
        steps: examples in the batch.

    Returns:
        [] the next coefficient.

    Edge cases: a divergence that is not finite changes nothing.

    Raises:
        ValueError: for a coefficient or a divergence that is not [], or a target, horizon or steps not above
            0.
        TypeError: for a coefficient or a divergence that is not floating.

    Example:
        Twice the target: the error is cut to 0.2, so the weight grows by a fifth over the horizon.

        >>> coefficient = adaptive_coefficient(torch.tensor(0.1), torch.tensor(12.0), target=6.0, horizon=1, steps=1)
        >>> round(coefficient.item(), 4)
        0.12

    Source: Ziegler et al. 2019, section 2.2.
    """
    expect(
        "adaptive_coefficient", coefficient=(coefficient, "", "float"), divergence=(divergence, "", "float")
    )
    number("adaptive_coefficient", "above 0", target=target, horizon=horizon, steps=steps)
    error = (wide(divergence) / target - 1).clamp(-0.2, 0.2)
    error = torch.where(divergence.isfinite(), error, 0.0)
    return wide(coefficient) * (1 + error * steps / horizon)
