"""The Kullback-Leibler divergence of a policy from its reference: estimated from one token, and exact.

Shape letters: V vocabulary.

Schulman, "Approximating KL Divergence", 2020 (k1, k2, k3); Ziegler et al., "Fine-Tuning Language Models from
Human Preferences", 2019 (the adaptive coefficient).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import check_range, expect, upcast

ESTIMATORS = ("k1", "k2", "k3", "k3+")
LIMIT = 20.0
"""Log-ratios are clamped to plus and minus this before the exponential: e^20 is 5e8, still finite."""


def kl(policy_logps: Tensor, reference_logps: Tensor, estimator: str = "k3") -> Tensor:
    """Estimates KL(policy ‖ reference) from the log-probabilities of tokens sampled from the policy.

    Averaged over many tokens, each estimates the divergence (k2 with a small bias). They differ in variance,
    in whether a single value can be negative, and in their gradient as part of a loss.

        d = reference - policy
        k1 = -d              unbiased, may be negative; its mean gradient is 0, so it is useless as a loss
        k2 = d²/2            biased, low variance; its gradient is that of the divergence
        k3 = e^d - d - 1     unbiased, never negative; its gradient is that of the reverse divergence
        k3+                  the value of k3 with the gradient of k2

    Args:
        policy_logps: [...] float, nats, of the sampled tokens.
        reference_logps: [...] float, nats, of the same tokens under the reference; usually without gradient.
        estimator: "k1", "k2", "k3" or "k3+".

    Returns:
        [...] nats, for each token; float32, or float64 as given. k2, k3 and k3+ are at least 0.

    Steps:
        1. Check the estimator, which is in `ESTIMATORS`, and the tensors: `expect` with the dims and kinds
            under Args.
        2. Log-ratios d = reference - policy, [...], in at least float32 (`upcast`), clamped to ±LIMIT.
        3. k1, k2 and k3 [...] by their formulas.
        4. k3+ [...]: k2, plus the detached difference k3 - k2.

    Edge cases: equal log-probabilities give 0 and zero gradient (k1: gradient 1). d is clamped to ±20; a
    clamped token has no gradient.

    Raises:
        ValueError: for another estimator, or shapes that differ.
        TypeError: for log-probabilities that are not floating.

    Example:
        The token is twice as likely under the reference: d = log 2.

        >>> d = torch.tensor(2.0).log()
        >>> [round(kl(torch.tensor(0.0), d, name).item(), 4) for name in ("k1", "k2", "k3")]
        [-0.6931, 0.2402, 0.3069]

    Source: Schulman 2020; the gradients after Tang and Munos, "On a few pitfalls in KL divergence gradient
    estimation for RL", 2025. Differs from it: the clamp.
    """
    # 1. Check.
    if estimator not in ESTIMATORS:
        raise ValueError(f"kl: estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    expect(
        "kl", policy_logps=(policy_logps, "...", "float"), reference_logps=(reference_logps, "...", "float")
    )
    # 2. Log-ratios [...].
    d = (upcast(reference_logps) - upcast(policy_logps)).clamp(-LIMIT, LIMIT)
    # 3. Estimators [...].
    if estimator == "k1":
        return -d
    k2 = d.square() / 2
    if estimator == "k2":
        return k2
    k3 = d.exp() - d - 1
    if estimator == "k3":
        return k3
    # 4. Value of k3, gradient of k2.
    return k2 + (k3 - k2).detach()


def exact_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Computes KL(policy ‖ reference) of the next token, by a sum over the whole vocabulary.

    The estimators in `kl` need only the sampled token. The sum has no variance and the right gradient, and
    needs the logits of both models. Summed over the positions of completions sampled from the policy, it is
    an unbiased estimate of the divergence of whole completions, of lower variance than k1.

        KL = Σ_v p_v (log p_v - log q_v),    p = softmax(policy_logits), q = softmax(reference_logits)

    Args:
        policy_logits: [..., V] float, already divided by the sampling temperature.
        reference_logits: [..., V] float, likewise.

    Returns:
        [...] nats, at least 0 up to rounding; float32, or float64 as given.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args.
        2. Log-probabilities of both, log p and log q [..., V]: log-softmax in at least float32 (`upcast`).
        3. Log-ratios [..., V]; where log p is -inf, replace both by 0 before subtracting, as the gradient of
            -inf - (-inf) is NaN.
        4. Sum of p times the log-ratio over the vocabulary, [...].

    Edge cases: a logit of -inf in both is a token that neither can sample, and adds 0; of -inf in the
    reference only, the divergence is infinite.

    Raises:
        ValueError: if the shapes differ.
        TypeError: for logits that are not floating.

    Example:
        Probabilities (1/2, 1/2) and (1/4, 3/4): log 2 / 2 + log(2/3) / 2.

        >>> round(exact_kl(torch.zeros(2), torch.tensor([1.0, 3.0]).log()).item(), 4)
        0.1438

    Source: Amini et al., "Better Estimation of the KL Divergence Between Language Models", 2025, the
    Rao-Blackwellized estimator.
    """
    # 1. Check.
    expect(
        "exact_kl",
        policy_logits=(policy_logits, "... V", "float"),
        reference_logits=(reference_logits, "... V", "float"),
    )
    # 2. Log-probabilities [..., V].
    policy, reference = (upcast(x).log_softmax(-1) for x in (policy_logits, reference_logits))
    # 3. Log-ratios [..., V].
    possible = policy > -torch.inf
    ratio = torch.where(possible, policy, 0.0) - torch.where(possible, reference, 0.0)
    # 4. Sum [...].
    return (policy.exp() * ratio).sum(-1)


def adaptive_coefficient(
    coefficient: Tensor,
    divergence: Tensor,
    *,
    target: float | Tensor,
    horizon: float | Tensor,
    steps: int = 1,
) -> Tensor:
    """Increases the weight of the KL penalty if the divergence is above its target, else decreases it.

    A fixed weight is too small for one reward model and too large for another; a target for the divergence
    means the same for all.

        error = clip(divergence / target - 1, -0.2, 0.2)
        coefficient ← coefficient (1 + error · steps / horizon)

    Args:
        coefficient: [] float, > 0, the current weight (initially 0.1).
        divergence: [] float, nats, of the last batch.
        target: nats, > 0, of the divergence (6 in the paper, summed over a completion).
        horizon: examples in which an error of ±0.2, the limit, changes the coefficient by a fifth (10,000 in
            the paper).
        steps: examples in the batch, > 0.

    Returns:
        [] the next coefficient, > 0; float32, or float64 as given.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args (dims "" for []), `check_range`
            for target, horizon and steps.
        2. Relative error [], in at least float32 (`upcast`), clipped to ±0.2; 0 if the divergence is not
            finite.
        3. Multiply the coefficient by 1 + error · steps / horizon.

    Edge cases: a divergence that is not finite leaves the coefficient unchanged.

    Raises:
        ValueError: if coefficient or divergence is not [], or target, horizon or steps is not above 0.
        TypeError: for a coefficient or a divergence that is not floating.

    Example:
        Twice the target: the error is clipped to 0.2, so the weight grows by a fifth over the horizon.

        >>> weight, divergence = torch.tensor(0.1), torch.tensor(12.0)
        >>> round(adaptive_coefficient(weight, divergence, target=6.0, horizon=1, steps=1).item(), 4)
        0.12

    Source: Ziegler et al. 2019, section 2.2.
    """
    # 1. Check.
    expect(
        "adaptive_coefficient", coefficient=(coefficient, "", "float"), divergence=(divergence, "", "float")
    )
    check_range("adaptive_coefficient", "above 0", target=target, horizon=horizon, steps=steps)
    # 2. Error [].
    error = (upcast(divergence) / target - 1).clamp(-0.2, 0.2)
    error = torch.where(divergence.isfinite(), error, 0.0)
    # 3. Next coefficient [].
    return upcast(coefficient) * (1 + error * steps / horizon)
