"""Log-probabilities of given tokens, the input of every loss after pretraining.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pure.loss.check import check_chunk, check_labels, check_range, expect
from pure.loss.cross_entropy import IGNORE
from pure.loss.vocabulary import chosen_logit, local_logits, log_normalizer, upcast_logits, vocabulary_size
from pure.loss.vocabulary import entropy as entropy_of
from pure.parallel.vocabulary import CutLogits
from pure.transform.modes import keeps_activations
from pure.transform.remat import remat
from pure.types import Logits, Tree


class LogProbabilities(NamedTuple):
    """Log-probability of each label, and the entropy of the distribution over the vocabulary there.

    Fields:
        logps: [..., T] nats, float32 or float64; 0 where there is no label.
        entropy: [..., T] nats, same dtype; 0 where there is no label.
    """

    logps: Tensor
    entropy: Tensor


@runtime_checkable
class Head(Protocol):
    """Log-probabilities from hidden states: (params, hidden [B, T, D], labels [B, T]) -> LogProbabilities.

    `linear_log_probabilities` with its keyword arguments bound is one.
    """

    def __call__(self, params: Tree, hidden: Tensor, labels: Tensor, /) -> LogProbabilities: ...


@runtime_checkable
class LogProbs(Protocol):
    """Log-probabilities of a batch's own tokens under some params: (params, batch) -> LogProbabilities."""

    def __call__(self, params: Tree, batch: Any, /) -> LogProbabilities: ...


def log_probabilities(logits: Tensor | CutLogits, labels: Tensor, *, ignore_index: int = IGNORE) -> Tensor:
    """Computes the log-probability of each label.

        logp = logits[label] - log Σ_v exp logits[v]

    Args:
        logits: [..., V] any float dtype; computed in float32, float64 in its own precision. Logits cut over
            the vocabulary (`pure.parallel.vocabulary`) give the same numbers, on all processes.
        labels: [...] integers in 0 .. V-1, already shifted, or `ignore_index`.
        ignore_index: label of ignored positions, which give 0 and receive no gradient.

    Returns:
        [...] float, nats, at most 0: float32, or float64 as given.

    Edge cases: a label outside the vocabulary (and not `ignore_index`) gives NaN in compiled or
    transformed code and on a GPU, where labels are not checked.

    Raises:
        ValueError: if the shapes do not fit, or a label is outside the vocabulary (eager, on a CPU).
        TypeError: if logits are not floating, or labels are not integers.

    Example:
        Two equal logits: log 1/2. The second position has no label.

        >>> log_probabilities(torch.zeros(2, 2), torch.tensor([1, -100])).tolist()
        [-0.6931471824645996, 0.0]
    """
    return _from_logits(logits, labels, ignore_index, entropy=False).logps


def linear_log_probabilities(
    params: Tree,
    hidden: Tensor,
    labels: Tensor,
    *,
    logits: Logits,
    temperature: float | Tensor = 1.0,
    entropy: bool = False,
    chunk: int | None = None,
) -> LogProbabilities:
    """Computes log-probabilities, and on request entropies, from hidden states.

    The rollouts of a policy are sampled at a temperature, and its losses compare log-probabilities at the
    same one.

        logp = log softmax(logits / temperature)[label],     entropy = - Σ_v p_v log p_v

    Args:
        params: those of `logits`; receive gradient.
        hidden: [B, T, D].
        labels: [B, T], already shifted; -100 where there is none.
        logits: (params, hidden [..., D]) -> [..., V], such as `model.logits`.
        temperature: > 0, divisor of the logits.
        entropy: compute the entropy too, by a second loop over the logits; otherwise it is 0.
        chunk: rows of the batch whose logits are in memory at a time, recomputed in the backward pass; None
            holds all.

    Returns:
        LogProbabilities(logps [B, T], entropy [B, T]).

    Raises:
        ValueError: as `log_probabilities`; if chunk < 1; if temperature is not above 0, or a tensor with
            axes.
        TypeError: as `log_probabilities`.

    Example:
        >>> head = lambda params, hidden: hidden @ params.T
        >>> result = linear_log_probabilities(
        ...     torch.zeros(4, 1), torch.ones(1, 1, 1), torch.tensor([[2]]), logits=head, entropy=True)
        >>> round(result.logps.item(), 4), round(result.entropy.item(), 4)  # log 1/4 and log 4
        (-1.3863, 1.3863)
    """
    expect("linear_log_probabilities", hidden=(hidden, "... D", "float"), labels=(labels, "...", "integer"))
    check_range("linear_log_probabilities", "above 0", temperature=temperature)
    part = partial(_from_hidden, logits=logits, temperature=temperature, entropy=entropy)
    if chunk is None or keeps_activations():
        return part((params, hidden), labels)
    check_chunk("linear_log_probabilities", chunk)
    recomputed = remat(part)
    chunks = zip(hidden.split(chunk), labels.split(chunk), strict=True)
    parts = [recomputed((params, h), y) for h, y in chunks]
    return LogProbabilities(torch.cat([p.logps for p in parts]), torch.cat([p.entropy for p in parts]))


def _from_hidden(
    inputs: tuple[Tree, Tensor],
    labels: Tensor,
    *,
    logits: Logits,
    temperature: float | Tensor,
    entropy: bool,
) -> LogProbabilities:
    """(params, hidden [B, T, D]), labels [B, T] -> LogProbabilities."""
    params, hidden = inputs
    precise = upcast_logits(logits(params, hidden), temperature)
    return _from_logits(precise, labels, IGNORE, entropy=entropy)


def _from_logits(
    logits: Tensor | CutLogits, labels: Tensor, ignore_index: int, *, entropy: bool
) -> LogProbabilities:
    """Computes the log-probability of each label, and on request the entropy of the distribution there.

    Every loss after pretraining starts from these numbers: the log-probability of a completion is their sum.

        logp = logits[label] - logZ,     logZ = log Σ_v exp logits[v]
        entropy = - Σ_v p_v log p_v,     p = softmax(logits)

    Args:
        logits: [..., V] float of any precision; computed in float32, float64 in its own precision.
        labels: [...] integer, in 0 .. V-1, or `ignore_index`.
        ignore_index: label of ignored positions, which give 0 and receive no gradient.
        entropy: compute the entropy; False gives zeros, without a second loop over the logits.

    Returns:
        LogProbabilities(logps [...] nats, at most 0; entropy [...] nats, at least 0), both 0 where ignored.

    Steps:
        1. Check the arguments under the name "log_probabilities": `expect` with the dims and kinds under
            Args, for logits those of `local_logits(logits)`; and
            `check_labels("log_probabilities", labels, vocabulary_size(logits), ignore_index)`.
        2. Mark the positions that have a label, [...] bool, and replace the other labels by 0.
        3. Log-probabilities [...]: with precise = `upcast_logits(logits)`, at least float32,
            `chosen_logit(precise, labels)` minus logZ = `log_normalizer(precise)`; 0 where ignored.
        4. Entropies [...] by `entropy_of(precise, logZ)`, 0 where ignored; or zeros.

    Edge cases: no position has a label: zeros. A label outside the vocabulary gives NaN where labels are not
    checked.

    Raises:
        ValueError: if the shapes do not fit, or a label is outside the vocabulary (eager, on a CPU).
        TypeError: if logits are not floating, or labels are not integers.

    Example:
        Two equal logits: log 1/2, entropy log 2. The second position has no label.

        >>> result = _from_logits(torch.zeros(2, 2), torch.tensor([1, -100]), -100, entropy=True)
        >>> result.logps, result.entropy
        (tensor([-0.6931,  0.0000]), tensor([0.6931, 0.0000]))

    Source: Shannon, "A Mathematical Theory of Communication", 1948, section 6 (entropy).
    """
    # 1. Check.
    expect(
        "log_probabilities",
        logits=(local_logits(logits), "... V", "float"),
        labels=(labels, "...", "integer"),
    )
    check_labels("log_probabilities", labels, vocabulary_size(logits), ignore_index)
    # 2. Labels [...].
    counted = labels != ignore_index
    index = torch.where(counted, labels, 0)
    # 3. Log-probabilities [...].
    precise = upcast_logits(logits)
    log_z = log_normalizer(precise)
    logps = torch.where(counted, chosen_logit(precise, index) - log_z, 0.0)
    # 4. Entropies [...].
    if not entropy:
        return LogProbabilities(logps, torch.zeros_like(logps))
    return LogProbabilities(logps, torch.where(counted, entropy_of(precise, log_z), 0.0))
