"""Run coroutines from ordinary code: one event loop in a thread of its own, for as long as the process lives.

A client that a coroutine opened in one call stays usable in the next, as both run on the same loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence


def gather() -> Callable[[Sequence[Awaitable]], list]:
    """Makes a function that runs awaitables side by side and waits for all of them.

    Returns:
        Awaitables -> their results in order, an exception in the place of one that raised. The loop starts at
        the first call; it may be called where another loop runs (a notebook).

    Example:
        >>> async def double(x):
        ...     return 2 * x
        >>> gather()([double(1), double(2)])
        [2, 4]
    """
    loops: list[asyncio.AbstractEventLoop] = []

    def run(waiting: Sequence[Awaitable]) -> list:
        if not loops:
            loops.append(asyncio.new_event_loop())
            threading.Thread(target=loops[0].run_forever, name="coroutines", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(_all(waiting), loops[0]).result()

    return run


async def _all(waiting: Sequence[Awaitable]) -> list:
    """Results and exceptions, in order."""
    return list(await asyncio.gather(*waiting, return_exceptions=True))
