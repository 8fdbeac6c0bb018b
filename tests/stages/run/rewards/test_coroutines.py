"""`gather` runs coroutines from ordinary code: ordered results, concurrently, also inside a running loop."""

from __future__ import annotations

import asyncio

from stages.run.rewards.coroutines import gather


async def echo(x: int) -> int:
    await asyncio.sleep(0)
    if x < 0:
        raise KeyError(x)
    return x


def test_results_and_errors_are_in_order() -> None:
    results = gather()([echo(2), echo(-1), echo(3)])
    assert results[::2] == [2, 3]
    assert isinstance(results[1], KeyError)


def test_coroutines_run_concurrently_on_one_loop() -> None:
    run = gather()
    event = run([_make_event()])[0]
    assert run([event.wait(), _set_event(event)]) == [True, None]


def test_gather_works_inside_a_running_loop() -> None:
    async def inside() -> list:
        return gather()([echo(1)])

    assert asyncio.run(inside()) == [1]


async def _make_event() -> asyncio.Event:
    return asyncio.Event()


async def _set_event(event: asyncio.Event) -> None:
    event.set()
