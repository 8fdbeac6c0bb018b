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

    Below 1 likely tokens become likelier, above 1 all become more alike. One rule for both ends, T = 0
    (greedy) included, lets rows of different temperatures share one call.

        softmax(l / T), and its limit T → 0: only the largest logits are left

    with l = logits, T = temperature.

    Args:
        logits: [..., V] float.
        temperature: T >= 0, one number or [...], one per row.

    Returns:
        [..., V], dtype of logits: l / T; in a row with T = 0 the largest logits, unchanged, and -inf.

    Steps:
        1. T as [..., 1] with `_per_row`; a row with T below `MIN_TEMPERATURE` is greedy.
        2. Divide the logits by T, in greedy rows by 1.
        3. In greedy rows set the logits below the largest of the row to -inf; convert to the dtype of logits.

    Edge cases: T = 0 leaves every largest logit (several, if they are equal). T below 1e-6 counts as 0. NaN
    stays NaN.

    Example:
        >>> temperature(torch.tensor([2.0, 4.0]), 2.0)
        tensor([1., 2.])
        >>> temperature(torch.tensor([2.0, 4.0]), 0.0)
        tensor([-inf, 4.])

    Source: Ackley, Hinton and Sejnowski, "A Learning Algorithm for Boltzmann Machines", 1985.
    """
    # 1. T [..., 1], and the rows that are greedy.
    per_row = _per_row(temperature, logits)
    greedy = per_row < MIN_TEMPERATURE
    # 2. Divide: [..., V].
    scaled = logits / torch.where(greedy, 1.0, per_row)
    # 3. Drop all but the largest in greedy rows.
    dropped = greedy & (scaled < scaled.amax(-1, keepdim=True))
    return torch.where(dropped, -torch.inf, scaled).to(logits.dtype)


def top_k(logits: Tensor, k: int | Tensor) -> Tensor:
    """Keep the k likeliest tokens.

    Most of the vocabulary makes no sense at any one position, and its many small probabilities add up to a
    real risk of sampling nonsense.

        keep v where l_v >= the k-th largest of the row's logits l

    Args:
        logits: [..., V] float.
        k: >= 1, one number or [...] integers, one per row; above V keeps all.

    Returns:
        [..., V], dtype of logits: unchanged where kept, -inf where dropped.

    Steps:
        1. Take the k-th largest logit of each row, [..., 1], with k at most V: for an int with `topk`, which
           sorts only a part; for a tensor, as [..., 1] with `_per_row`, from the row in descending order.
        2. Set the logits below it to -inf.

    Edge cases: tokens that tie with the k-th are all kept.

    Example:
        >>> top_k(torch.tensor([1.0, 3.0, 2.0]), 2)
        tensor([-inf, 3., 2.])

    Source: Fan et al. 2018, section 5.4. Differs from it: ties.
    """
    # 1. The k-th largest logit: [..., 1].
    size = logits.shape[-1]
    if isinstance(k, int):
        smallest = logits.topk(min(k, size), -1).values[..., -1:]
    else:
        rank = _per_row(k, logits).long().clamp(max=size) - 1
        smallest = logits.sort(-1, descending=True).values.gather(-1, rank)
    # 2. Drop what is below.
    return torch.where(logits < smallest, -torch.inf, logits)


def top_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Keep the nucleus: the likeliest tokens that together have the probability p.

    Few tokens are kept where the model is certain, many where it is not; a fixed k does neither.

        keep v where Σ_{l_w > l_v} softmax(l)_w < p (the tokens likelier than v), or p >= 1

    with l = logits.

    Args:
        logits: [..., V] float.
        p: in [0, 1], one number or [...], one per row; 1 keeps all, 0 the likeliest token.

    Returns:
        [..., V], dtype of logits: unchanged where kept, -inf where dropped.

    Steps:
        1. Sort the logits of each row, the largest first; their softmax in float32, and for each the sum of
           those before it, [..., V]: 0 for the first.
        2. Keep those whose sum is below p (`_per_row`), or is 0, and all if p >= 1; the threshold is the
           smallest logit kept, [..., 1].
        3. Set the logits below the threshold to -inf.

    Edge cases: the likeliest token is always kept. Tokens that tie with the last one kept are kept.

    Example:
        Probabilities 0.5, 0.3, 0.2: the sums before them are 0, 0.5 and 0.8.

        >>> top_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.6).exp()
        tensor([0.5000, 0.3000, 0.0000])

    Source: Holtzman et al. 2020, equation 2. Differs from it: ties.
    """
    # 1. Sorted logits, and the sum of the probabilities before each: [..., V].
    descending = logits.sort(-1, descending=True).values
    before = F.pad(descending.float().softmax(-1).cumsum(-1)[..., :-1], (1, 0))
    # 2. The smallest logit kept: [..., 1].
    share = _per_row(p, logits)
    kept = (before < share) | (share >= 1) | (before <= 0)
    smallest = torch.where(kept, descending, torch.inf).amin(-1, keepdim=True)
    # 3. Drop what is below.
    return torch.where(logits < smallest, -torch.inf, logits)


def min_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Drop tokens that are less likely than the share p of the likeliest.

    This threshold needs no sorting and, like the nucleus, is strict where the model is certain.

        keep v where softmax(l)_v >= p · max softmax(l), that is l_v >= max l + log p

    with l = logits.

    Args:
        logits: [..., V] float.
        p: in [0, 1], one number or [...], one per row; 0 keeps all.

    Returns:
        [..., V], dtype of logits: unchanged where kept, -inf where dropped.

    Steps:
        1. The threshold of each row: its largest logit plus log p, [..., 1] (`_per_row`). No softmax.
        2. Set the logits below the threshold to -inf.

    Edge cases: the likeliest token is always kept; p = 0 has the threshold -inf.

    Example:
        >>> min_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.5).exp()
        tensor([0.5000, 0.3000, 0.0000])

    Source: Nguyen et al. 2024, section 3.1.
    """
    # 1. max l + log p: [..., 1].
    smallest = logits.amax(-1, keepdim=True) + _per_row(p, logits).log()
    # 2. Drop what is below.
    return torch.where(logits < smallest, -torch.inf, logits)


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Make the tokens that the row already has less likely.

    Small models fall into loops: each repetition makes the next one likelier. This lowers every token of the
    text so far, by the same factor however often it occurs.

        l_v / r where l_v > 0, l_v · r otherwise, for every v that was seen

    with l = logits, r = penalty.

    Args:
        logits: [..., V] float.
        seen: [..., V] bool, the tokens of the prompt and of the completion so far.
        penalty: r > 0, one number or [...], one per row; 1 changes nothing, below 1 repetition is encouraged.

    Returns:
        [..., V], dtype of logits.

    Steps:
        1. The penalised logits of all tokens, with r as [..., 1] from `_per_row`: [..., V].
        2. Take them where the token was seen, the given ones elsewhere; convert to the dtype of logits.

    Edge cases: a logit of 0 stays 0 for every r: the penalty depends on the logits' zero point.

    Example:
        >>> repetition_penalty(torch.tensor([2.0, -2.0, 1.0]), torch.tensor([True, True, False]), 2.0)
        tensor([ 1., -4.,  1.])

    Source: Keskar et al. 2019, section 4.1. Differs from it: a negative logit is multiplied, as the
    division of the paper would raise it.
    """
    # 1. l / r, or l · r: [..., V].
    factor = _per_row(penalty, logits)
    penalized = torch.where(logits > 0, logits / factor, logits * factor)
    # 2. Only of tokens seen.
    return torch.where(seen, penalized, logits).to(logits.dtype)


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token a row, from one uniform number a row, by inverting the distribution function.

    The Gumbel trick needs a random number for each entry of the vocabulary, thousands for one token.

        the first v with Σ_{w <= v} exp(l_w) > u Σ_w exp(l_w)

    with l = logits, u = uniform.

    Args:
        logits: [..., V] float; -inf is never sampled.
        uniform: [...] float32 in [0, 1), one per row. 0 takes the first token that has any probability.

    Returns:
        [...] int64, ids in 0 .. V-1.

    Steps:
        1. Weights exp(l - max l) in float32, and their running sums, [..., V].
        2. Count the tokens whose sum is at most u times the total (the last sum): the count is the id of the
           first token above it, at most V-1.

    Edge cases: a row with NaN gives 0.

    Example:
        Weights 1, 2, 1: the running sums are 1, 3, 4, and 0.5 · 4 lies below the second.

        >>> sample(torch.tensor([1.0, 2.0, 1.0]).log(), torch.tensor(0.5)).item()
        1

    Source: Devroye, "Non-Uniform Random Variate Generation", 1986, section III.2.1.
    """
    # 1. Running sums of the weights: [..., V].
    logits32 = logits.float()
    sums = (logits32 - logits32.amax(-1, keepdim=True)).exp().cumsum(-1)
    # 2. Count the tokens whose sum is at most u times the total: [...].
    below = sums <= uniform[..., None] * sums[..., -1:]
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


def log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """Look up the log-probability of a token.

    Policy gradients compare the policy that sampled a token with the one in training, by this number.

        l_id - log Σ_v exp(l_v) = (l_id - m) - log Σ_v exp(l_v - m),     m = max l

    with l = logits, id = ids. The second form cannot overflow.

    Args:
        logits: [..., V] float.
        ids: [...] integers in 0 .. V-1.

    Returns:
        [...] float32, nats, at most 0.

    Steps:
        1. The logits in float32, the largest of each row, [..., 1], and the sum of exp(l - m), [...].
        2. Gather the token's logit, and subtract m and the logarithm of the sum: [...].

    Edge cases: a token with the logit -inf gives -inf; a row with NaN gives NaN.

    Example:
        Weights 1 and 3: the second has the probability 3/4.

        >>> log_probability(torch.tensor([1.0, 3.0]).log(), torch.tensor(1)).exp()
        tensor(0.7500)

    Source: Blanchard, Higham and Higham, "Accurately Computing the Log-Sum-Exp and Softmax Functions", 2021.
    """
    # 1. m [..., 1] and Σ exp(l - m) [...].
    logits32 = logits.float()
    largest = logits32.amax(-1, keepdim=True)
    total = (logits32 - largest).exp().sum(-1)
    # 2. l_id - m - log Σ: [...].
    return (logits32.gather(-1, ids[..., None]) - largest)[..., 0] - total.log()


def _per_row(value: float | Tensor, logits: Tensor) -> Tensor:
    """A number, or one per row [...], as a tensor that broadcasts against logits [..., V]."""
    return torch.as_tensor(value, device=logits.device)[..., None]
