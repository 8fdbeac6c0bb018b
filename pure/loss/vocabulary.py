"""Reductions over the vocabulary: of plain logits, or of logits cut over the processes of a group.

Every loss that takes logits reads them through these, and so takes those of a tensor-parallel model
(`pure.nn.tensor_parallel`) as well: each number below needs one all-reduce of one number a position, where
the logits themselves would need V.

Shape letters: V vocabulary, n processes, r a process.

Shoeybi et al., "Megatron-LM", 2019, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import upcast
from pure.parallel.operators import copy_to_group, maximum_over_group, sum_over_group
from pure.parallel.vocabulary import CutLogits


def vocabulary_size(logits: Tensor | CutLogits) -> int:
    """Return V, of the whole vocabulary.

    Example:
        >>> vocabulary_size(torch.zeros(2, 5))
        5
    """
    return logits.size if isinstance(logits, CutLogits) else logits.shape[-1]


def local_logits(logits: Tensor | CutLogits) -> Tensor:
    """Return the logits that this process holds, [..., V] or [..., V/n]; for checks of shape and dtype.

    Example:
        >>> local_logits(torch.zeros(2, 5)).shape
        torch.Size([2, 5])
    """
    return logits.local if isinstance(logits, CutLogits) else logits


def upcast_logits(logits: Tensor | CutLogits, temperature: float | Tensor = 1.0) -> Tensor | CutLogits:
    """Return the logits in at least float32, divided by a temperature.

    Args:
        logits: [..., V] float.
        temperature: > 0.

    Returns:
        [..., V], cut if they were.

    Example:
        >>> upcast_logits(torch.tensor([2.0]), 0.5)
        tensor([4.])
    """
    if not isinstance(logits, CutLogits):
        return _divide(upcast(logits), temperature)
    if isinstance(temperature, Tensor):
        temperature = copy_to_group(temperature, logits.group)
    return CutLogits(_divide(upcast(logits.local), temperature), logits.group)


def log_normalizer(logits: Tensor | CutLogits) -> Tensor:
    """Compute the logarithm of the sum of exponentials.

        logZ = m + log Σ_r Σ_{v of r} exp(l_v - m),     m = max_v l_v

    Args:
        logits: [..., V] float32 or float64.

    Returns:
        [...], nats, equal on all processes.

    Example:
        >>> log_normalizer(torch.zeros(2)).item() == torch.tensor(2.0).log().item()
        True
    """
    if not isinstance(logits, CutLogits):
        return logits.logsumexp(-1)
    top = maximum_over_group(logits.local.amax(-1), logits.group)
    sums = (logits.local - top[..., None]).exp().sum(-1)
    return top + sum_over_group(sums, logits.group).log()


def chosen_logit(logits: Tensor | CutLogits, index: Tensor) -> Tensor:
    """Select the logit of each label, NaN outside the vocabulary: [..., V] and [...] -> [...].

    A compiler fuses the comparison into its loop over the logits; the gradient of `gather` would be a
    zero-filled tensor of the same size, written and read once more.

    Args:
        logits: [..., V] float.
        index: [...] integers.

    Returns:
        [...], equal on all processes.

    Example:
        >>> chosen_logit(torch.tensor([[5.0, 7.0]]), torch.tensor([1]))
        tensor([7.])
    """
    size = vocabulary_size(logits)
    valid = (index >= 0) & (index < size)
    if isinstance(logits, CutLogits):
        own = index - logits.first
        is_own = (own >= 0) & (own < logits.local.shape[-1])
        selected = torch.where(is_own, _select(logits.local, own), 0.0)
        selected = sum_over_group(selected, logits.group)
    else:
        selected = _select(logits, index)
    return torch.where(valid, selected, torch.nan)


def mean_logit(logits: Tensor | CutLogits) -> Tensor:
    """Compute the mean over the vocabulary: [..., V] -> [...], equal on all processes.

    Example:
        >>> mean_logit(torch.tensor([1.0, 3.0]))
        tensor(2.)
    """
    if not isinstance(logits, CutLogits):
        return logits.mean(-1)
    return sum_over_group(logits.local.sum(-1), logits.group) / logits.size


def entropy(logits: Tensor | CutLogits, log_z: Tensor) -> Tensor:
    """Compute the entropy of the distribution over the vocabulary.

        H = - Σ_v p_v log p_v,     log p_v = l_v - logZ

    Args:
        logits: [..., V] float32 or float64.
        log_z: [...], their `log_normalizer`.

    Returns:
        [...], nats, equal on all processes.

    Example:
        >>> entropy(torch.zeros(1), torch.zeros(())).item()
        -0.0
    """
    if not isinstance(logits, CutLogits):
        return _entropy(logits, log_z)
    return sum_over_group(_entropy(logits.local, copy_to_group(log_z, logits.group)), logits.group)


def _entropy(logits: Tensor, log_z: Tensor) -> Tensor:
    """- Σ p log p over the last axis: [..., V] and [...] -> [...]."""
    logps = logits - log_z[..., None]
    return -(logps.exp() * logps).sum(-1)


def _select(logits: Tensor, index: Tensor) -> Tensor:
    """Selects logits [..., V] at an index [...], any number where it is out of range."""
    size = logits.shape[-1]
    if torch.compiler.is_compiling():
        is_label = torch.arange(size, device=logits.device) == index[..., None]
        return torch.where(is_label, logits, 0.0).sum(-1)
    return logits.gather(-1, index.clamp(0, size - 1)[..., None].long()).squeeze(-1)


def _divide(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits / temperature; a temperature of 1 costs nothing."""
    return logits if isinstance(temperature, float) and temperature == 1.0 else logits / temperature
