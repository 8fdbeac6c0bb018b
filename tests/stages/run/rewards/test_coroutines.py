"""Coroutines from ordinary code: in order, side by side, also inside a running loop."""

from __future__ import annotations

import asyncio

from stages.run.rewards.coroutines import gather


async def echo(x: int) -> int:
    await asyncio.sleep(0)
    if x < 0:
        raise KeyError(x)
    return x


def test_results_and_errors_are_in_order() -> None:
    found = gather()([echo(2), echo(-1), echo(3)])
    assert found[::2] == [2, 3]
    assert isinstance(found[1], KeyError)


def test_they_run_side_by_side_on_one_loop() -> None:
    run = gather()
    event = run([_event()])[0]
    assert run([event.wait(), _set(event)]) == [True, None]


def test_another_loop_may_be_running() -> None:
    async def inside() -> list:
        return gather()([echo(1)])

    assert asyncio.run(inside()) == [1]


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _set(event: asyncio.Event) -> None:
    event.set()
