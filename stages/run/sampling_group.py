"""Let the processes of a run use one sampling server together: one sends weights, none samples from old ones.

They are the processes of torch.distributed, found when a function here is called; a process alone is the only
one. All of them must make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist

from pure.parallel.collect import exchange, together
from pure.parallel.group import Group, run_within

ALONE = Group(0, 1, None)


def find_group() -> Group:
    """Returns the processes of torch.distributed, or this process alone."""
    if not dist.is_available() or not dist.is_initialized():
        return ALONE
    return Group(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)


def call_together(function: Callable[[], None]) -> None:
    """Calls a function on each process, and returns on none before it has returned on all.

    Raises:
        Exception: of the function, on all processes.

    Example:
        >>> lines = []
        >>> call_together(lambda: lines.append("called"))
        >>> lines
        ['called']
    """
    run_within(together, find_group(), function)


def is_on_all(fact: bool) -> bool:
    """Returns whether a fact holds on all processes.

    Example:
        >>> is_on_all(True), is_on_all(False)
        (True, False)
    """
    return all(exchange(fact, find_group()))
