"""Sampling from logits: penalty, temperature, truncation, and the choice of a token.

Every function but `sample` and `log_probability` takes logits and returns logits, so that they compose in
any order; an excluded token has the logit -inf. The usual order is repetition penalty, temperature, top-k,
top-p, min-p, then `sample`. Each parameter is one number or one per row, and everything compiles and runs
under vmap.

Shape letters: B rows (any leading axes, or none), V vocabulary.

Fan et al., "Hierarchical Neural Story Generation", 2018 (top-k); Holtzman et al., "The Curious Case of Neural
Text Degeneration", 2020 (top-p); Nguyen et al., 2024 (min-p); Keskar et al., "CTRL", 2019 (repetition
penalty).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_TEMPERATURE = 1e-6
"""A temperature below this counts as 0: logits divided by it would overflow."""


def temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Sharpen or flatten the distribution.

    Below 1 likely tokens become likelier, above 1 all become more alike.

        softmax(l / T), and its limit T → 0: only the largest logits are left

    Args:
        logits: [..., V] float.
        temperature: T >= 0, one number or [...], one per row.

    Returns:
        [..., V], dtype of logits.

    Edge cases: T = 0 leaves every largest logit (several, if they are equal) and sets the others to -inf. T
    below 1e-6 counts as 0.

    Example:
        >>> temperature(torch.tensor([2.0, 4.0]), 2.0)
        tensor([1., 2.])
        >>> temperature(torch.tensor([2.0, 4.0]), 0.0)
        tensor([-inf, 4.])
    """
    per_row = _per_row(temperature, logits)
    greedy = per_row < MIN_TEMPERATURE
    scaled = logits / torch.where(greedy, 1.0, per_row)
    dropped = greedy & (scaled < scaled.amax(-1, keepdim=True))
    return torch.where(dropped, -torch.inf, scaled).to(logits.dtype)


def top_k(logits: Tensor, k: int | Tensor) -> Tensor:
    """Keep the k likeliest tokens.

    Most of the vocabulary makes no sense at any one position, and its many small probabilities add up to a
    real risk of sampling nonsense.

        keep v where l_v >= the k-th largest logit

    Args:
        logits: [..., V] float.
        k: >= 1, one number or [...] integers, one per row; above V keeps all.

    Returns:
        [..., V], -inf where dropped.

    Edge cases: tokens that tie with the k-th are all kept.

    Example:
        >>> top_k(torch.tensor([1.0, 3.0, 2.0]), 2)
        tensor([-inf, 3., 2.])

    Source: Fan et al. 2018, section 5.4. Differs from it: ties.
    """
    size = logits.shape[-1]
    if isinstance(k, int):
        smallest = logits.topk(min(k, size), -1).values[..., -1:]
    else:
        rank = _per_row(k, logits).long().clamp(max=size) - 1
        smallest = logits.sort(-1, descending=True).values.gather(-1, rank)
    return torch.where(logits < smallest, -torch.inf, logits)


def top_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Keep the nucleus: the likeliest tokens that together have the probability p.

    Few tokens are kept where the model is certain, many where it is not.

        keep v where Σ_{l_w > l_v} softmax(l)_w < p (the tokens likelier than v), or p >= 1

    Args:
        logits: [..., V] float.
        p: in [0, 1], one number or [...], one per row; 1 keeps all, 0 the likeliest token.

    Returns:
        [..., V], -inf where dropped.

    Steps:
        1. Probabilities in float32, the largest first; for each, the sum of those before it.
        2. The smallest logit whose sum is below p is the threshold.

    Edge cases: the likeliest token is always kept. Tokens that tie with the last one kept are kept.

    Example:
        Probabilities 0.5, 0.3, 0.2: the sums before them are 0, 0.5 and 0.8.

        >>> top_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.6).exp()
        tensor([0.5000, 0.3000, 0.0000])

    Source: Holtzman et al. 2020, equation 2. Differs from it: ties.
    """
    share = _per_row(p, logits)
    # 1. Sums.
    descending = logits.float().sort(-1, descending=True).values
    before = F.pad(descending.softmax(-1).cumsum(-1)[..., :-1], (1, 0))
    # 2. Threshold.
    kept = (before < share) | (share >= 1) | (before <= 0)
    smallest = torch.where(kept, descending, torch.inf).amin(-1, keepdim=True)
    return torch.where(logits < smallest, -torch.inf, logits)


def min_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Drop tokens that are less likely than the share p of the likeliest.

    This threshold needs no sorting and, like the nucleus, is strict where the model is certain.

        keep v where softmax(l)_v >= p · max softmax(l), that is l_v >= max l + log p

    Args:
        logits: [..., V] float.
        p: in [0, 1], one number or [...], one per row; 0 keeps all.

    Returns:
        [..., V], -inf where dropped.

    Example:
        >>> min_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.5).exp()
        tensor([0.5000, 0.3000, 0.0000])

    Source: Nguyen et al. 2024, section 3.1.
    """
    smallest = logits.amax(-1, keepdim=True) + _per_row(p, logits).log()
    return torch.where(logits < smallest, -torch.inf, logits)


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Make the tokens that the row already has less likely.

        l_v / r where l_v > 0, l_v · r otherwise, for every v that was seen

    Args:
        logits: [..., V] float.
        seen: [..., V] bool, the tokens of the prompt and of the completion so far.
        penalty: r > 0, one number or [...], one per row; 1 changes nothing, below 1 repetition is encouraged.

    Returns:
        [..., V], dtype of logits.

    Edge cases: a logit of 0 stays 0 for every r: the penalty depends on the logits' zero point.

    Example:
        >>> repetition_penalty(torch.tensor([2.0, -2.0, 1.0]), torch.tensor([True, True, False]), 2.0)
        tensor([ 1., -4.,  1.])

    Source: Keskar et al. 2019, section 4.1. Differs from it: a negative logit is multiplied, as the
    division of the paper would raise it.
    """
    factor = _per_row(penalty, logits)
    penalized = torch.where(logits > 0, logits / factor, logits * factor)
    return torch.where(seen, penalized, logits).to(logits.dtype)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token a row, from one uniform number a row, by inverting the distribution function.

    The Gumbel trick needs a random number for each entry of the vocabulary, thousands for one token.

        the first v with Σ_{w <= v} exp(l_w) > u Σ_w exp(l_w)

    Args:
        logits: [..., V] float; -inf is never sampled.
        uniform: [...] float32 in [0, 1), one per row. 0 takes the first token that has any probability.

    Returns:
        [...] int64, ids in 0 .. V-1.

    Steps:
        1. Weights exp(l - max l), in float32, and their running sums.
        2. The first token whose sum exceeds u times the total.

    Edge cases: a row of NaN gives 0.

    Example:
        Weights 1, 2, 1: the running sums are 1, 3, 4, and 0.5 · 4 lies below the second.

        >>> sample(torch.tensor([1.0, 2.0, 1.0]).log(), torch.tensor(0.5)).item()
        1

    Source: Devroye, "Non-Uniform Random Variate Generation", 1986, section III.2.1.
    """
    # 1. Running sums.
    logits32 = logits.float()
    sums = (logits32 - logits32.amax(-1, keepdim=True)).exp().cumsum(-1)
    # 2. Count the tokens whose sum is not above u times the total.
    below = sums <= uniform[..., None] * sums[..., -1:]
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """Look up the log-probability of a token.

        l_id - log Σ_v exp(l_v)

    Args:
        logits: [..., V] float.
        ids: [...] integers in 0 .. V-1.

    Returns:
        [...] float32, nats, at most 0.

    Example:
        >>> log_probability(torch.tensor([1.0, 3.0]).log(), torch.tensor(1)).exp()
        tensor(0.7500)
    """
    logits32 = logits.float()
    largest = logits32.amax(-1, keepdim=True)
    total = (logits32 - largest).exp().sum(-1)
    return (logits32.gather(-1, ids[..., None]) - largest)[..., 0] - total.log()


def _per_row(value: float | Tensor, logits: Tensor) -> Tensor:
    """A number, or one per row [...], as a tensor that broadcasts against logits [..., V]."""
    return torch.as_tensor(value, device=logits.device)[..., None]
