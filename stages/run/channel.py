"""The connections over which the processes of a run agree on everything that is not a sum of tensors.

A collective of torch.distributed waits for minutes when a process is busy or gone. Here a process that waits
for another one's file, or for its error, learns of its end at once: the system closes its connection. Every
process is connected with process 0, by a socket of its own; a thread reads what arrives.
"""

from __future__ import annotations

import hmac
import json
import os
import queue
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from stages.run.world import World, is_loopback

GRACE = 6.0
"""Seconds after another process's failure until this one is ended, if it does not end by itself."""

SECONDS_FOR_CAUSE = 4.0
"""Longest wait for another process's error, after a failure that it may have caused."""

SECONDS_TO_END = 120.0
"""Longest wait of a process that has done its work, for each of the others."""

SECONDS_UNTIL_TOLD = 10.0
"""Wait for another process to join, after which the user is told of it."""

Publish = Callable[[str, str], Any]
Look = Callable[[str], str]


class EndedError(RuntimeError):
    """Another process has ended, so that this one cannot go on."""


class End(NamedTuple):
    """The end of a process.

    Fields:
        code: exit code.
        text: one line for the user; "" for none.
        failed: by an error, so that the others must end too; False at the end of its work, also of work that
            a signal interrupted, as all were told.
    """

    code: int
    text: str
    failed: bool


class Channel(NamedTuple):
    """The connections of one process; make it with `open_channel`.

    Fields:
        world: the process's place.
        connections: rank -> connection: process 0 has one to each of the others, they have one to it.
        inbox: (rank, message) of the messages that arrived.
        ends: rank -> End of the processes that have ended, in the order of their ends.
        concluding: set once this process is about to end.
        interrupt: () -> None; makes the main thread raise EndedError, also while it waits for something else.
    """

    world: World
    connections: Mapping[int, Connection]
    inbox: queue.SimpleQueue
    ends: dict[int, End]
    concluding: threading.Event
    interrupt: Callable[[], Any]


def open_channel(
    world: World, *, publish: Publish, look: Look, seconds: float, interrupt: Callable[[], Any] = int
) -> Channel:
    """Connects this process with process 0.

    Args:
        world: the process's place.
        publish: (name, text) -> None; makes a text known to all processes.
        look: name -> text; waits for it.
        seconds: longest wait for all processes.
        interrupt: called by a thread, once, if another process fails or dies; it is to end what the main
            thread does. The process is ended GRACE seconds later.

    Returns:
        Channel.

    Raises:
        TimeoutError: if a process does not come; it names the process.
    """
    until = time.monotonic() + seconds
    connections = _accept(world, publish, seconds) if world.rank == 0 else _connect(world, look, until)
    channel = Channel(world, connections, queue.SimpleQueue(), {}, threading.Event(), interrupt)
    threading.Thread(target=_read, args=(channel,), name="channel", daemon=True).start()
    return channel


def wait_to_join(ready: Callable[[], bool], world: World, rank: int, seconds: float) -> bool:
    """Waits for another process, which may still be importing; says so once it takes long.

    Args:
        ready: called ten times a second or more, so that a signal's error is raised at once.
        world: this process's place.
        rank: the process that is waited for.
        seconds: longest wait.

    Returns:
        True once `ready` is; False after `seconds`.
    """
    start = time.monotonic()
    tells = world.rank <= 1 or world.local_rank == 0
    while not ready():
        waited = time.monotonic() - start
        if waited > seconds:
            return False
        if tells and waited > SECONDS_UNTIL_TOLD:
            place = f"{world.address}:{world.port}"
            print(
                f"intro2llm: waiting for process {rank} at {place}, up to {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            tells = False
        time.sleep(0.1 if waited > 1 else 0.01)
    return True


def exchange(
    channel: Channel, name: str, value: Any, *, waits_for: str, seconds: float | None = None
) -> list[Any]:
    """Returns the values of all processes, in the order of their ranks.

    Args:
        channel: all processes must make the same exchanges in the same order.
        name: of the exchange; processes that are at different ones are told so.
        value: JSON.
        waits_for: what a wait is for, for the message.
        seconds: longest wait; None waits as long as the others live.

    Returns:
        The values.

    Raises:
        EndedError: if another process ends or failed.
        TimeoutError: after `seconds`.
    """
    until = None if seconds is None else time.monotonic() + seconds
    if channel.world.rank:
        _send(channel, 0, {"name": name, "value": value})
        return _receive(channel, name, waits_for, until)[1]["value"]
    values = {0: json.loads(json.dumps(value))}  # as the others' values: tuples are lists
    while len(values) < channel.world.size:
        rank, message = _receive(channel, name, waits_for, until)
        values[rank] = message["value"]
    ordered = [values[rank] for rank in range(channel.world.size)]
    for rank in channel.connections:
        _send(channel, rank, {"name": name, "value": ordered})
    return ordered


def find_cause(channel: Channel, seconds: float = SECONDS_FOR_CAUSE) -> End | None:
    """Waits for the end of another process, the probable cause of a failure here.

    Args:
        channel: of this process.
        seconds: longest wait.

    Returns:
        The first End by an error; None if the others go on.
    """
    until = time.monotonic() + seconds
    while (end := _failure(channel)) is None and time.monotonic() < until:
        time.sleep(0.02)
    return end


def conclude(channel: Channel, end: End, release: Callable[[], Any] = int) -> End:
    """Tells the others how this process ends, and agrees with them: all end with the same code.

    Args:
        channel: of this process.
        end: of this process.
        release: called after a failure was told, to end the collectives in which others may wait.

    Returns:
        The End of the run; its text is "" on all processes but one, which prints it.
    """
    channel.concluding.set()
    if channel.world.rank == 0:
        return _conclude_first(channel, end)
    _send(channel, 0, {"end": end})
    until = time.monotonic() + GRACE
    if end.failed:
        release()
    while 0 not in channel.ends and (not end.failed or time.monotonic() < until):
        time.sleep(0.02)
    verdict = channel.ends.get(0, end)
    # A process 0 that was killed cannot print, so that process 1 does.
    prints = channel.world.rank == 1 and verdict == _lost(0)
    return verdict if prints else verdict._replace(text="")


def _conclude_first(channel: Channel, end: End) -> End:
    """Collects the ends of the others, and tells them that of the run."""
    until = time.monotonic() + SECONDS_TO_END
    while not end.failed and len(channel.ends) < channel.world.size - 1:
        end = _failure(channel) or end
        if time.monotonic() > until:
            late = min(set(channel.connections) - set(channel.ends))
            end = End(1, f"process {late} did not end within {SECONDS_TO_END:.0f} s after process 0", True)
        time.sleep(0.005)
    end = end if end.failed else _failure(channel) or end
    for rank in channel.connections:
        _send(channel, rank, {"end": end})
    return end


def _failure(channel: Channel) -> End | None:
    """The first end by an error."""
    return next((end for end in list(channel.ends.values()) if end.failed), None)


def _lost(rank: int) -> End:
    """The end of a process whose connection closed before it said anything."""
    text = f"process {rank} ended without a message: it was killed, or the machine ran out of memory"
    return End(1, text, True)


def _send(channel: Channel, rank: int, message: dict[str, Any]) -> None:
    """Sends a message; the thread that reads learns that the other process has ended."""
    with suppress(OSError):
        channel.connections[rank].send_bytes(json.dumps(message).encode())


def _receive(channel: Channel, name: str, waits_for: str, until: float | None) -> tuple[int, dict[str, Any]]:
    """Waits for a message of the exchange `name`."""
    while True:
        try:
            rank, message = channel.inbox.get(timeout=0.1)
        except queue.Empty:
            if channel.ends:
                raise EndedError("another process has ended") from None
            if until is not None and time.monotonic() > until:
                raise TimeoutError(
                    f"process {channel.world.rank} waited too long for {waits_for}; see what the other "
                    "processes do"
                ) from None
            continue
        if message["name"] != name:
            raise EndedError(
                f"process {rank} is at {message['name']!r}, process {channel.world.rank} at {name!r}"
            )
        return rank, message


def _read(channel: Channel) -> None:
    """Body of the thread: reads until all connections are closed; ends a process that does not end itself."""
    ranks = {connection: rank for rank, connection in channel.connections.items()}
    deadline: float | None = None
    while True:
        if not ranks and deadline is None:
            return
        for connection in wait(list(ranks), timeout=0.2) if ranks else ():
            _take(channel, ranks, connection)
        if not ranks:
            time.sleep(0.2)
        failed = _failure(channel)
        if failed is not None and deadline is None:
            deadline = time.monotonic() + GRACE
            if not channel.concluding.is_set():
                channel.interrupt()
        if failed is not None and deadline is not None and time.monotonic() > deadline:
            if channel.concluding.is_set():
                return
            _end_process(channel, failed)


def _take(channel: Channel, ranks: dict[Any, int], connection: Any) -> None:
    """Reads one message."""
    rank = ranks[connection]
    try:
        message = json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        del ranks[connection]
        channel.ends.setdefault(rank, _lost(rank))
        return
    if "end" in message:
        channel.ends.setdefault(rank, End(*message["end"]))
    else:
        channel.inbox.put((rank, message))


def _end_process(channel: Channel, end: End) -> None:
    """Ends this process at once, as its main thread is busy: all that it has on the disk is whole."""
    if channel.world.rank == 0:
        for rank in channel.connections:
            _send(channel, rank, {"end": end})
    if channel.world.rank == 0 or (channel.world.rank == 1 and end == _lost(0)):
        with suppress(OSError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"intro2llm: {end.text}\n".encode())
    os._exit(end.code)


def _accept(world: World, publish: Publish, seconds: float) -> dict[int, Connection]:
    """Process 0: waits for the connections of all others."""
    token = secrets.token_hex(16)
    connections: dict[int, Connection] = {}
    until = time.monotonic() + seconds
    with _make_server(world) as server:
        publish("channel", json.dumps([server.getsockname()[1], token]))
        while len(connections) < world.size - 1:
            missing = sorted(set(range(1, world.size)) - set(connections))
            if not wait_to_join(lambda: _has_caller(server), world, missing[0], until - time.monotonic()):
                raise TimeoutError(
                    f"process 0 waited too long for process {missing[0]} of {world.size} to join; is it "
                    "running, and has it the same MASTER_ADDR and MASTER_PORT?"
                )
            opened, _ = server.accept()
            connection = _wrap(opened)
            rank = _read_greeting(connection, token)
            if rank in missing:
                connections[rank] = connection
            else:  # none of ours
                connection.close()
    return dict(sorted(connections.items()))


def _has_caller(server: socket.socket) -> bool:
    """Tells whether a process connects."""
    return bool(select.select([server], [], [], 0)[0])


def _make_server(world: World) -> socket.socket:
    """Listens on a free port: of this machine alone where all processes are on it."""
    if is_loopback(world.address):
        return socket.create_server(("127.0.0.1", 0), backlog=world.size)
    if socket.has_dualstack_ipv6():
        family = socket.AF_INET6
        return socket.create_server(("", 0), family=family, backlog=world.size, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=world.size)


def _read_greeting(connection: Connection, token: str) -> int:
    """The rank of a process that connects; -1 for anything else."""
    with suppress(OSError, EOFError, ValueError, TypeError):
        if connection.poll(SECONDS_FOR_CAUSE):
            rank, given = json.loads(connection.recv_bytes(1 << 10))
            if hmac.compare_digest(str(given), token):
                return int(rank)
    return -1


def _connect(world: World, look: Look, until: float) -> dict[int, Connection]:
    """Any other process: connects with process 0."""
    port, token = json.loads(look("channel"))
    host = "127.0.0.1" if is_loopback(world.address) else world.address
    try:
        opened = socket.create_connection((host, port), timeout=max(until - time.monotonic(), 0.01))
    except OSError as error:
        raise TimeoutError(
            f"process {world.rank} could not connect with process 0 at {host}, port {port}: "
            f"{error.strerror or error}"
        ) from error
    connection = _wrap(opened)
    connection.send_bytes(json.dumps([world.rank, token]).encode())
    return {0: connection}


def _wrap(opened: socket.socket) -> Connection:
    """A connection of whole messages; one whose machine is gone closes after half a minute."""
    opened.settimeout(None)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(opened.detach())
