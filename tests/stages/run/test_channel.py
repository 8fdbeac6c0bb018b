"""The connections of a run's processes: exchanges, waits that end, one exit code."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

import pytest

from stages.run import channel as channels
from stages.run.channel import Channel, End, EndedError, conclude, exchange, find_cause, open_channel
from stages.run.world import World

pytestmark = pytest.mark.processes


def run_all(size: int, body: Callable[[Channel], Any]) -> list[Any]:
    """The results of `body`, or its errors, in each of `size` threads that are connected like processes."""
    told: Queue[str] = Queue()

    def join(rank: int) -> Any:
        world = World(rank, size, rank, size, "127.0.0.1", 1)
        publish = lambda name, text: [told.put(text) for _ in range(size - 1)]  # noqa: E731
        channel = open_channel(world, publish=publish, look=lambda name: told.get(timeout=10), seconds=10)
        try:
            return body(channel)
        except Exception as error:
            return error
        finally:
            channel.concluding.set()  # a thread is no process, and is not to be ended

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(join, range(size)))


def leave(channel: Channel) -> None:
    """Closes the connections, as the system does for a process that is killed."""
    for connection in channel.connections.values():
        with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as copy:
            copy.shutdown(socket.SHUT_RDWR)


def test_all_get_the_values_of_all_in_order() -> None:
    results = run_all(3, lambda channel: exchange(channel, "a", channel.world.rank * 2, waits_for="a"))
    assert results == [[0, 2, 4]] * 3


def test_all_end_with_the_code_of_the_one_that_failed_and_one_prints() -> None:
    def body(channel: Channel) -> End:
        if channel.world.rank == 2:
            return conclude(channel, End(7, "no room", True))
        try:
            exchange(channel, "a", None, waits_for="a")
        except EndedError:
            cause = find_cause(channel)
            assert cause is not None
            return conclude(channel, cause)
        return End(0, "", False)

    assert run_all(3, body) == [End(7, "no room", True), End(7, "", True), End(7, "", True)]


def test_a_run_that_ends_well_ends_so_for_all() -> None:
    assert run_all(3, lambda channel: conclude(channel, End(0, "", False))) == [End(0, "", False)] * 3
    interrupted = End(143, "", False)
    assert run_all(2, lambda channel: conclude(channel, interrupted)) == [interrupted] * 2


@pytest.mark.parametrize("lost", [0, 1])
def test_a_wait_ends_when_a_process_is_gone(lost: int) -> None:
    def body(channel: Channel) -> Any:
        if channel.world.rank == lost:
            return leave(channel)
        start = time.monotonic()
        with pytest.raises(EndedError):
            exchange(channel, "a", None, waits_for="a")
        assert time.monotonic() - start < 2
        cause = find_cause(channel)
        assert cause is not None
        return conclude(channel, cause)

    end = run_all(2, body)[1 - lost]
    assert end.code == 1
    assert end.text.startswith(f"process {lost} ended without a message: it was killed")


def test_a_wait_with_a_limit_says_what_it_waited_for() -> None:
    def body(channel: Channel) -> Any:
        if channel.world.rank == 1:
            return time.sleep(0.6)
        return exchange(channel, "a", None, waits_for="the flags of the other processes", seconds=0.1)

    error = run_all(2, body)[0]
    assert isinstance(error, TimeoutError)
    assert "process 0 waited too long for the flags of the other processes" in str(error)


def test_processes_at_different_exchanges_are_told() -> None:
    results = run_all(
        2, lambda channel: exchange(channel, f"at {channel.world.rank}", 0, waits_for="a", seconds=1)
    )
    assert "process 1 is at 'at 1', process 0 at 'at 0'" in str(results[0])


def test_a_stranger_on_the_port_is_not_taken_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    original = channels._connect

    def knock_and_connect(world: World, look: Callable[[str], str], until: float) -> Any:
        told = look("channel")
        for text in (b"", b"\x00\x00\x00\x02hi", b'\x00\x00\x00\x07[1,"x"]'):
            with socket.create_connection(("127.0.0.1", json.loads(told)[0])) as stranger:
                stranger.sendall(text)
        return original(world, lambda name: told, until)

    monkeypatch.setattr(channels, "_connect", knock_and_connect)
    assert run_all(2, lambda channel: exchange(channel, "a", 1, waits_for="a")) == [[1, 1]] * 2


def test_a_process_that_never_comes_is_named() -> None:
    world = World(0, 3, 0, 3, "127.0.0.1", 1)
    with pytest.raises(TimeoutError, match="waited too long for process 1 of 3 to join"):
        open_channel(world, publish=lambda name, text: None, look=str, seconds=0.1)
