"""Cross-entropy over the vocabulary: the negative log-likelihood of each next token.

Shape letters: B batch, T tokens, D width, V vocabulary.

Szegedy et al., "Rethinking the Inception Architecture", 2015 (label smoothing); Chowdhery et al., "PaLM",
2022 (z-loss).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pure.loss.check import check_chunk, check_labels, check_range, expect, may_be_nonzero
from pure.loss.vocabulary import (
    chosen_logit,
    local_logits,
    log_normalizer,
    mean_logit,
    upcast_logits,
    vocabulary_size,
)
from pure.parallel.vocabulary import CutLogits
from pure.transform.modes import keeps_activations
from pure.transform.remat import remat
from pure.types import Logits, Tree

IGNORE = -100
"""The label of an ignored position, as in torch and Hugging Face."""


class CrossEntropy(NamedTuple):
    """Sum of the losses and its divisor, both of which add up over micro-batches.

    Fields:
        sum: [] nats, float32 or float64.
        count: [] float32, number of tokens that were not ignored, or the sum of their weights.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]


@runtime_checkable
class CrossEntropyHead(Protocol):
    """Cross-entropy from hidden states: (params, hidden [B, T, D], labels [B, T]) -> CrossEntropy.

    A fourth argument [B, T] weights the positions; it is given only where a batch has weights.
    `linear_cross_entropy` with its keyword arguments bound is one.
    """

    def __call__(
        self, params: Tree, hidden: Tensor, labels: Tensor, weights: Tensor | None = None, /
    ) -> CrossEntropy: ...


def cross_entropy(
    logits: Tensor | CutLogits,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    ignore_index: int = IGNORE,
    label_smoothing: float | Tensor = 0.0,
    z_loss: float | Tensor = 0.0,
) -> CrossEntropy:
    """Sums the negative log-likelihood of the labels.

        loss = logZ - (1 - s) logits[label] - s mean_v logits[v] + z logZ²,     logZ = log Σ_v exp logits[v]

    Smoothing keeps single logits from growing without limit; the z-loss keeps logZ near 0, where bfloat16 is
    most precise.

    Args:
        logits: [..., V] float of any precision; computed in float32, float64 in its own precision. Logits cut
            over the vocabulary (`pure.parallel.vocabulary`) give the same sum, on all processes.
        labels: [...] integer, in 0 .. V-1, or `ignore_index`.
        weights: [...] float, weight of each position in sum and count; None: 1. A weight of 2 counts a
            position twice, one of 0 not at all.
        ignore_index: label of ignored positions, which receive no gradient (their logits must be finite: the
            gradient of NaN is NaN, even times 0).
        label_smoothing: s, fraction of the target spread evenly over the vocabulary, in [0, 1).
        z_loss: z, weight of logZ², >= 0; PaLM uses 1e-4.

    Returns:
        CrossEntropy(sum [], count []), nats and tokens; divide once, after adding the parts.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args, for logits those of
            `local_logits(logits)`; `check_range` for s and z; and
            `check_labels("cross_entropy", labels, vocabulary_size(logits), ignore_index)`.
        2. Replace ignored labels by 0, [...]; their losses are masked in step 6.
        3. Negative log-likelihood [...]: with precise = `upcast_logits(logits)`, at least float32, logZ is
            `log_normalizer(precise)` and the label's logit is `chosen_logit(precise, labels)`.
        4. Subtract s times `mean_logit(precise)` [...], if `may_be_nonzero(s)`.
        5. Add z logZ² [...], if `may_be_nonzero(z)`.
        6. Sum the losses that are not ignored, times their weights, by `torch.where`, so that the others get
            no gradient. The count is the number of such labels, as float32, or the sum of their weights.

    Edge cases: all labels ignored, or no labels, gives (0, 0) and zero gradient. A label outside the
    vocabulary (and not `ignore_index`) makes the sum NaN in compiled or transformed code and on a GPU, where
    labels are not checked.

    Raises:
        ValueError: if the shapes do not fit, a weight is out of range, or a label is outside the vocabulary
            (eager, on a CPU).
        TypeError: if logits are not floating, or labels are not integers.

    Example:
        Two equal logits: log 2 nats.

        >>> total, count = cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
        >>> round(total.item(), 4), count.item()
        (0.6931, 1.0)

    Source: Szegedy et al. 2015, section 7; Chowdhery et al. 2022, section 5.
    """
    # 1. Check.
    expect(
        "cross_entropy",
        logits=(local_logits(logits), "... V", "float"),
        labels=(labels, "...", "integer"),
        weights=(weights, "...", "float?"),
    )
    check_range("cross_entropy", "in [0, 1)", label_smoothing=label_smoothing)
    check_range("cross_entropy", "at least 0", z_loss=z_loss)
    check_labels("cross_entropy", labels, vocabulary_size(logits), ignore_index)
    # 2. Labels [...].
    counted = labels != ignore_index
    index = torch.where(counted, labels, 0)
    # 3. Negative log-likelihood [...].
    precise = upcast_logits(logits)
    log_z = log_normalizer(precise)
    chosen = chosen_logit(precise, index)
    loss = log_z - (1 - label_smoothing) * chosen
    # 4. Label smoothing [...].
    if may_be_nonzero(label_smoothing):
        loss = loss - label_smoothing * mean_logit(precise)
    # 5. z-loss [...].
    if may_be_nonzero(z_loss):
        loss = loss + z_loss * log_z.square()
    # 6. Sum and count, [] each.
    if weights is None:
        return CrossEntropy(torch.where(counted, loss, 0.0).sum(), counted.sum().float())
    return CrossEntropy(
        torch.where(counted, loss * weights, 0.0).sum(), torch.where(counted, weights, 0.0).sum()
    )


def linear_cross_entropy(
    params: Tree,
    hidden: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    logits: Logits,
    chunk: int | None = None,
    part: Callable[..., CrossEntropy] | None = None,
    **options: Any,
) -> CrossEntropy:
    """Computes the cross-entropy from hidden states, with at most `chunk` rows of logits in memory.

    With a vocabulary of 150,000 the logits are larger than everything else in the step together. Here they
    exist for one chunk at a time: the forward pass saves only the sum, the backward pass recomputes them.

    Args:
        params: those of `logits`; receive gradient.
        hidden: [B, T, D].
        labels: [B, T], already shifted.
        weights: [B, T] float, weights of the positions, see `cross_entropy`; None: 1.
        logits: (params, hidden [..., D]) -> [..., V], such as `model.logits`.
        chunk: positions whose logits are in memory at a time, > 0; None computes all at once, which is faster
            while they fit.
        part: the loss of one chunk: `chunk_cross_entropy` with `logits` and `options` bound, as a `region` to
            compile. None: the same, not a region. (One graph of all chunks would recompute nothing.)
        options: `ignore_index`, `label_smoothing`, `z_loss` of `cross_entropy`.

    Returns:
        CrossEntropy(sum, count), equal to cross_entropy(logits(params, hidden), labels) up to the order of
        summation.

    Edge cases: the last chunk may be shorter.

    Raises:
        ValueError: if chunk < 1, or as `cross_entropy`.

    Source: the idea of Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024, without
    their kernel.
    """
    expect(
        "linear_cross_entropy",
        hidden=(hidden, "... D", "float"),
        labels=(labels, "...", "integer"),
        weights=(weights, "...", "float?"),
    )
    if chunk is None or keeps_activations():
        return cross_entropy(logits(params, hidden), labels, weights, **options)
    check_chunk("linear_cross_entropy", chunk)
    part = remat(part or partial(chunk_cross_entropy, logits=logits, options=options))
    per_position = [labels.flatten()] if weights is None else [labels.flatten(), weights.flatten()]
    rows = zip(hidden.flatten(0, -2).split(chunk), *(x.split(chunk) for x in per_position), strict=True)
    sums = [part((params, h), *x) for h, *x in rows]
    return CrossEntropy(sum(s.sum for s in sums), sum(s.count for s in sums))


def chunk_cross_entropy(
    inputs: tuple[Tree, Tensor],
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    logits: Logits,
    options: dict[str, Any],
) -> CrossEntropy:
    """Computes the cross-entropy of one chunk, which `linear_cross_entropy` recomputes in its backward pass.

    Args:
        inputs: (params, hidden [C, D]).
        labels: [C] integers.
        weights: [C] float, or None.
        logits, options: as in `linear_cross_entropy`.

    Returns:
        CrossEntropy(sum [], count []).
    """
    params, hidden = inputs
    return cross_entropy(logits(params, hidden), labels, weights, **options)
