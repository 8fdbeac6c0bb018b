"""Read a process's place among the processes of a run from the environment variables that torchrun sets.

This module imports nothing of torch, so that the command line knows its place before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LAUNCHER = "INTRO2LLM_LAUNCHER"
"""Environment variable: the pid of `intro2llm launch`, in the processes that it starts."""

START = "start the processes with torchrun, or with intro2llm launch NUMBER STAGE"


class World(NamedTuple):
    """A process's place among those that were started together.

    Fields:
        rank: this process's number, from 0.
        size: number of processes.
        local_rank: this process's number on its machine, from 0.
        local_size: number of processes on its machine.
        address, port: where the first process, or torchrun, waits for the others.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int


def read_world(environment: Mapping[str, str]) -> World | None:
    """Reads WORLD_SIZE, RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Args:
        environment: the environment variables.

    Returns:
        World; None for a process that is alone: WORLD_SIZE is missing, or 1.

    Raises:
        ValueError: if a variable is missing or has no meaning; it names the variable.

    Example:
        >>> read_world({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
        World(rank=1, size=2, local_rank=1, local_size=2, address='10.0.0.1', port=29500)
        >>> read_world({}) is None
        True
    """
    size = _read_number(environment, "WORLD_SIZE", 1, 1 << 20, default=1)
    if size == 1:
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {size}, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; "
            f"{START}, or unset WORLD_SIZE to train with one"
        )
    rank = _read_number(environment, "RANK", 0, size - 1)
    local_size = _read_number(environment, "LOCAL_WORLD_SIZE", 1, size, default=size)
    return World(
        rank=rank,
        size=size,
        local_rank=_read_number(environment, "LOCAL_RANK", 0, local_size - 1, default=rank % local_size),
        local_size=local_size,
        address=environment["MASTER_ADDR"],
        port=_read_number(environment, "MASTER_PORT", 1, 65535),
    )


def is_loopback(address: str) -> bool:
    """Tells whether an address is this machine's own.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("10.0.0.1")
        (True, False)
    """
    return address in ("localhost", "::1") or address.startswith("127.")


def _read_number(
    environment: Mapping[str, str], name: str, low: int, high: int, default: int | None = None
) -> int:
    """Reads one variable; an empty one counts as missing."""
    text = environment.get(name) or default
    try:
        number = int(str(text))
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {text!r}; {START}")
    return number
