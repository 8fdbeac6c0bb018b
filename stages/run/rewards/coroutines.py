"""Run coroutines from ordinary code, in one event loop that lives in its own thread until the process ends.

A client that a coroutine opened in one call stays usable in the next, as both run in the same loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence


def gather() -> Callable[[Sequence[Awaitable]], list]:
    """Returns a function that runs awaitables concurrently and waits for all of them.

    Returns:
        Awaitables -> their results in order, with the exceptions of those that raised. The loop starts at the
        first call. The function may be called while another loop runs (a notebook).

    Example:
        >>> async def double(x):
        ...     return 2 * x
        >>> gather()([double(1), double(2)])
        [2, 4]
    """
    loops: list[asyncio.AbstractEventLoop] = []

    def run(awaitables: Sequence[Awaitable]) -> list:
        if not loops:
            loops.append(asyncio.new_event_loop())
            threading.Thread(target=loops[0].run_forever, name="coroutines", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(_gather_all(awaitables), loops[0]).result()

    return run


async def _gather_all(awaitables: Sequence[Awaitable]) -> list:
    """Awaits all, and returns their results or exceptions, in order."""
    return list(await asyncio.gather(*awaitables, return_exceptions=True))
