"""Find torch.distributed's store, through which the processes of a run learn of each other.

torch's own waits for it cannot be interrupted; here a signal ends the process while it waits.
"""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import Any

import torch.distributed as dist

from stages.run.channel import wait_to_join
from stages.run.world import World

SECONDS_TO_CONNECT = 20.0
"""Longest wait of torch for a server that accepted a connection already."""


def find_store(world: World, seconds: float) -> Any:
    """Starts the store at MASTER_ADDR on process 0, and connects with it on the others.

    Args:
        world: the process's place; under torchrun, its agent has started the store.
        seconds: longest wait.

    Returns:
        The store (`torch.distributed.TCPStore`).

    Raises:
        TimeoutError: if there is no store at MASTER_ADDR and MASTER_PORT in time.
        OSError: if process 0 cannot listen on the port.
    """
    serves = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    place = f"process {world.rank} of {world.size} could not join the others"
    place = f"{place} at {world.address}, port {world.port}"
    if not serves and not wait_to_join(lambda: _answers(world), world, 0, seconds):
        raise TimeoutError(f"{place}, within {seconds:.0f} s; is process 0 running?")
    connecting: Future = Future()
    connect = partial(_connect, connecting, world, serves, min(seconds, SECONDS_TO_CONNECT))
    threading.Thread(target=connect, name="store", daemon=True).start()
    if not wait_to_join(connecting.done, world, 0, min(seconds, SECONDS_TO_CONNECT)):
        raise TimeoutError(f"{place}: what listens there is not process 0, or is busy; choose another port")
    error = connecting.exception()
    if error is not None and "EADDRINUSE" in str(error):
        raise OSError(f"port {world.port} is in use: has another process RANK=0 too?") from error
    if error is not None:
        raise TimeoutError(f"{place}: {str(error).strip().partition(chr(10))[0][:200]}") from error
    store = connecting.result()
    store.set_timeout(timedelta(seconds=seconds))
    return store


def look_up(store: Any, world: World, name: str, seconds: float) -> str:
    """Waits for a text that process 0 publishes, and returns it.

    Args:
        store: from `find_store`.
        world: the process's place.
        name: of the text.
        seconds: longest wait.

    Returns:
        The text.

    Raises:
        TimeoutError: if it does not come.
        ConnectionError: if the process that has the store ends.
    """
    try:
        if not wait_to_join(lambda: store.check([name]), world, 0, seconds):
            raise TimeoutError(
                f"process {world.rank} waited longer than {seconds:.0f} s for process 0; is it running?"
            )
        return store.get(name).decode()
    except RuntimeError as error:
        raise ConnectionError(f"process 0 ended before process {world.rank} had joined it") from error


def _connect(connecting: Future, world: World, serves: bool, seconds: float) -> None:
    """Connects in a thread, as torch waits without an end for what is not a store."""
    try:
        store = dist.TCPStore(
            world.address,
            world.port,
            world.size,
            serves,
            timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=serves,
        )
    except Exception as error:
        connecting.set_exception(error)
    else:
        connecting.set_result(store)


def _answers(world: World) -> bool:
    """Tells whether something listens at MASTER_ADDR and MASTER_PORT."""
    try:
        socket.create_connection((world.address, world.port), timeout=5.0).close()
    except OSError:
        return False
    return True
