"""Early stopping: end a run when validation has not improved for a while.

Prechelt, "Early Stopping - But When?", 1998.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Patience(NamedTuple):
    """What validation has shown so far.

    Fields:
        best: the lowest value.
        best_step: the step that gave it, -1 before the first.
        since: validations since then.
    """

    best: float = float("inf")
    best_step: int = -1
    since: int = 0


def observe(state: Patience, step: int, value: float) -> Patience:
    """Takes one more validation value into account; lower is better, NaN is never better.

    Example:
        >>> observe(observe(Patience(), 10, 2.0), 20, 2.5)
        Patience(best=2.0, best_step=10, since=1)
    """
    return Patience(value, step, 0) if value < state.best else state._replace(since=state.since + 1)


def replay(history: Iterable[tuple[int, float]]) -> Patience:
    """Rebuilds the state from (step, value) pairs, such as a log holds: a resumed run stops where it would have.

    Example:
        >>> replay([(10, 2.0), (20, 1.5), (30, 1.7)])
        Patience(best=1.5, best_step=20, since=1)
    """
    state = Patience()
    for step, value in history:
        state = observe(state, step, value)
    return state
