"""Selection among the members of a population or sweep: the best one, and error bars over seeds.

Shape letters: P members, S seeds.

Jaderberg et al., "Population Based Training of Neural Networks", 2017 (`exploit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from stages.state import TrainState


class ErrorBars(NamedTuple):
    """A mean and its standard error, the deviation that the mean would have if all seeds were drawn anew.

    Fields:
        mean: [...].
        error: [...], same unit; NaN for a single seed.
    """

    mean: Tensor
    error: Tensor


def rank(scores: Tensor | Sequence[float], *, highest: bool = False) -> Tensor:
    """Order the members from best to worst.

    Args:
        scores: [P], such as `state.metrics["loss"]` or a validation loss.
        highest: the highest score is best; False: the lowest, as of a loss.

    Returns:
        [P] int64 indices of members; those whose score is NaN are last.

    Raises:
        ValueError: if scores are not [P].

    Example:
        >>> rank(torch.tensor([0.3, float("nan"), 0.1]))
        tensor([2, 0, 1])
    """
    scores = torch.as_tensor(scores)
    if scores.ndim != 1:
        raise ValueError(f"rank: expected one score for each member [P], got {list(scores.shape)}")
    return (-scores if highest else scores).argsort(stable=True)  # torch sorts NaN after infinity


def select(state: TrainState, scores: Tensor | Sequence[float] | str, *, highest: bool = False) -> TrainState:
    """Return the best member's own state, which continues alone or is saved as a run's result.

    `best = rank(scores)[0]` is its index: the stage that continues it is `make(name=values[name][best])`.

    Args:
        state: stacked, [P, ...].
        scores: [P], or the name of a metric of the state. A loss that the swept value enters, as beta that of
            DPO, does not compare members: give a figure on validation rows.
        highest: the highest score is best; False: the lowest.

    Returns:
        TrainState, a copy.

    Raises:
        ValueError: if there is not one score for each member, or all are NaN; for an unknown metric.

    Example:
        >>> rows = {"loss": torch.tensor([0.5, 0.2])}
        >>> state = TrainState(torch.ones(2), torch.zeros(2, 2), torch.tensor([3.0, 4.0]), (), {}, rows)
        >>> select(state, "loss").params
        tensor(4.)
    """
    order = rank(_scores_of(state, scores), highest=highest)
    return tree.map(lambda x: x[order[0]].clone(), state)


def exploit(
    state: TrainState,
    scores: Tensor | Sequence[float] | str,
    *,
    fraction: float = 0.25,
    highest: bool = False,
) -> TrainState:
    """Replace the worst members by copies of the best: the best goes on, from two places.

        member order[P - 1 - i] ← member order[i],    i < fraction · P

    Between two rounds of training this is population-based training; its other half, exploration, is a
    new `sweep` with changed values, whose `step` continues the same state.

    Args:
        state: stacked, [P, ...].
        scores: [P], or the name of a metric of the state.
        fraction: share of the members that are replaced, in (0, 0.5]; at least one is.
        highest: the highest score is best; False: the lowest.

    Returns:
        The stacked state. Params, optimizer state and `extra` are copied (hyperparameters that
        `inject_hyperparams` keeps in the optimizer's state too); each member keeps its key, so that a copy
        draws other numbers, and its values, which are the stage's.

    Raises:
        ValueError: as `select`; for a fraction out of range, or fewer than two members.

    Example:
        >>> rows = {"loss": torch.tensor([0.5, 0.2, 0.9])}
        >>> state = TrainState(torch.ones(3), torch.zeros(3, 2), torch.tensor([3.0, 4.0, 5.0]), (), {}, rows)
        >>> exploit(state, "loss").params
        tensor([3., 4., 4.])

    Source: Jaderberg et al. 2017, section 4.1.1, truncation selection. Differs from it: the best member
    replaces the worst, the second the second worst, and so on, not a random one of them.
    """
    scores = _scores_of(state, scores)
    if not 0 < fraction <= 0.5 or len(scores) < 2:
        raise ValueError(
            f"exploit: expected a fraction in (0, 0.5] of at least 2 members, got {fraction} of {len(scores)}"
        )
    order = rank(scores, highest=highest)
    replaced = max(1, int(fraction * len(scores)))
    source = torch.arange(len(scores), device=order.device)
    source = source.index_copy(0, order.flip(0)[:replaced], order[:replaced])
    return tree.map(lambda x: x[source], state)._replace(key=state.key.clone())


def error_bars(values: Tensor | Sequence, *, dim: int = -1) -> ErrorBars:
    """Compute the mean over seeds and its standard error.

        mean = Σ_s x_s / S,    error = sqrt(Σ_s (x_s - mean)² / (S - 1)) / sqrt(S)

    The error of few seeds is itself uncertain. By Student's t the true mean is with 95% within 12.7 errors
    for S = 2, 4.3 for 3, 2.8 for 5, 2.3 for 10; a difference of two means has the error sqrt(a² + b²).

    Args:
        values: [..., S] numbers x; a metric [P] of a sweep over `grid(beta=..., seed=...)` as `.view(-1, S)`.
        dim: the axis of the seeds.

    Returns:
        ErrorBars(mean [...], error [...]), without the axis of the seeds; float32, or the floating dtype of
        the values.

    Steps:
        1. Convert to a tensor, and integers or bools to float32.
        2. Differences from the mean over the seeds, [..., S].
        3. Variance [...]: the sum of their squares over S - 1; NaN for a single seed.
        4. Mean, and the root of variance / S.

    Edge cases: NaN where a value is NaN, as of a run that diverged; a single seed has the error NaN.

    Example:
        >>> error_bars(torch.tensor([[1.0, 2.0, 3.0]]))
        ErrorBars(mean=tensor([2.]), error=tensor([0.5774]))

    Source: Student, "The Probable Error of a Mean", 1908.
    """
    # 1. Values [..., S].
    values = torch.as_tensor(values)
    values = values if values.is_floating_point() else values.float()
    count = values.shape[dim]
    # 2. Differences [..., S].
    centred = values - values.mean(dim, keepdim=True)
    # 3. Variance [...].
    variance = centred.square().sum(dim) / (count - 1 if count > 1 else torch.nan)
    # 4. Mean and error [...].
    return ErrorBars(values.mean(dim), (variance / count).sqrt())


def _scores_of(state: TrainState, scores: Tensor | Sequence[float] | str) -> Tensor:
    """Scores [P] from a metric's name or as given, checked."""
    if isinstance(scores, str):
        if scores not in state.metrics:
            raise ValueError(f"select: no metric {scores!r}; the state has {', '.join(state.metrics)}")
        scores = state.metrics[scores]
    scores = torch.as_tensor(scores)
    if state.key.ndim != 2 or scores.shape != state.key.shape[:1]:
        raise ValueError(
            f"select: expected a stacked state and one score for each of its members, got a key "
            f"{list(state.key.shape)} and scores {list(scores.shape)}"
        )
    if scores.isnan().all():
        raise ValueError("select: the scores of all members are NaN, so none is best")
    return scores
