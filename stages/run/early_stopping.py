"""Early stopping: end a run when validation stops improving.

Prechelt, "Early Stopping - But When?", 1998.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class BestValidation(NamedTuple):
    """The best validation so far.

    Fields:
        best: the lowest value of the watched metric.
        best_step: the step of `best`; -1 before the first validation.
        since: validations after best_step.
    """

    best: float = float("inf")
    best_step: int = -1
    since: int = 0


def observe(state: BestValidation, step: int, value: float) -> BestValidation:
    """Updates the best validation; lower is better, NaN is never better.

    Example:
        >>> observe(observe(BestValidation(), 10, 2.0), 20, 2.5)
        BestValidation(best=2.0, best_step=10, since=1)
    """
    return BestValidation(value, step, 0) if value < state.best else state._replace(since=state.since + 1)


def to_json(state: BestValidation) -> dict[str, Any]:
    """Converts the state to JSON for a checkpoint's manifest; `best` is text, since JSON has no infinity.

    Example:
        >>> to_json(BestValidation())
        {'best': 'inf', 'best_step': -1, 'since': 0}
    """
    return {**state._asdict(), "best": repr(state.best)}


def from_json(fields: Mapping[str, Any] | None) -> BestValidation:
    """Inverts `to_json`, bit for bit; None is the state before the first validation.

    Raises:
        ValueError: for fields that `to_json` does not write.

    Example:
        >>> from_json(to_json(BestValidation(0.1, 5, 2)))
        BestValidation(best=0.1, best_step=5, since=2)
    """
    if fields is None:
        return BestValidation()
    try:
        return BestValidation(float(fields["best"]), int(fields["best_step"]), int(fields["since"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"early stopping: expected best, best_step and since, got {str(fields)[:80]}; "
            "the checkpoint's manifest is damaged, so delete that checkpoint"
        ) from None
