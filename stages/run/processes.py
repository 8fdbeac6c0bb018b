"""The processes of a run: joined by torchrun's environment variables, agreed as they start and end.

The numbers of a step are added by torch.distributed (`pure.parallel`); everything else that the processes
must agree on goes through the connections of `stages.run.channel`.
"""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from pure.parallel.group import Group, group_of
from pure.plural import count_noun
from stages.run import channel as channels
from stages.run.channel import Channel, End, EndedError
from stages.run.store import find_store, look_up
from stages.run.world import LAUNCHER, World, is_loopback

Result = TypeVar("Result")

JOIN_SECONDS = "INTRO2LLM_JOIN_SECONDS"
"""Environment variable: longest wait for all processes to join, in seconds; 300 unless it is set."""

STEP_SECONDS = "INTRO2LLM_STEP_SECONDS"
"""Environment variable: longest wait for another process inside a step, in seconds; 1800 unless it is set."""

SECONDS_TO_COMPARE = 600.0
"""Longest wait for the others' flags and fingerprints: building data and model may take some minutes more."""

PACKAGES = ("pure", "data_pipes", "stages")
"""Packages whose source must be the same on all processes."""


class Processes(NamedTuple):
    """The processes that compute a run together.

    Fields:
        rank: this process's number, from 0.
        size: their number.
        first: this is process 0, which alone writes files and prints.
        channel: the connections; None for a process that is alone.
        group: all, for collectives; None until `connect`, and for a process that is alone.
        data: those that split each batch: all, or one of each group that shares the model.
        tensor: those that share the model with this one (`--tensor_parallel`); None has it whole.
        store: torch.distributed's store, through which they found each other.
    """

    rank: int = 0
    size: int = 1
    first: bool = True
    channel: Channel | None = None
    group: Group | None = None
    data: Group | None = None
    tensor: Group | None = None
    store: Any = None


ALONE = Processes()
"""One process, without torch.distributed."""


@contextmanager
def joined(world: World | None, seconds: float | None = None) -> Iterator[Processes]:
    """Joins the other processes while the block runs.

    Args:
        world: the process's place, from `read_world`; None is a process that is alone.
        seconds: longest wait for them; None: that of JOIN_SECONDS.

    Yields:
        Processes, without a group.

    Raises:
        TimeoutError: if the others do not come; it names the one that is missing.
        OSError: if they cannot be reached.
    """
    if world is None:
        yield ALONE
        return
    seconds = float(os.environ.get(JOIN_SECONDS, 300)) if seconds is None else seconds
    if is_loopback(world.address):  # gloo would look up this machine's name, which may have no address
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if os.uname().sysname == "Darwin" else "lo")
    store = find_store(world, seconds)
    with _raising_signal() as interrupt:
        channel = channels.open_channel(
            world,
            publish=store.set,
            look=lambda name: look_up(store, world, name, seconds),
            seconds=seconds,
            interrupt=interrupt,
        )
        try:
            yield Processes(world.rank, world.size, world.rank == 0, channel, store=store)
        finally:
            channel.concluding.set()
            release()


def connect(processes: Processes, device: torch.device, tensor: int = 1) -> Processes:
    """Makes the groups for collectives: gloo on CPUs, NCCL beside it for GPUs.

    Args:
        processes: joined.
        device: of the run.
        tensor: number of processes, with ranks one after the other, that share the model; divides their
            number.

    Returns:
        The processes with their groups; unchanged for a process that is alone, or connected already.
    """
    if processes.channel is None or processes.group is not None:
        return processes
    world = processes.channel.world
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    seconds = float(os.environ.get(STEP_SECONDS, 1800))
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("group", processes.store),
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=seconds),
    )
    every = Group(world.rank, world.size, dist.group.WORLD)
    processes = processes._replace(group=every, data=every)
    if tensor == 1:
        return processes
    ranks = torch.arange(world.size).view(-1, tensor)  # [data, tensor]
    shared, split = (
        dist.new_subgroups_by_enumeration(x.tolist(), timeout=timedelta(seconds=seconds))[0]
        for x in (ranks, ranks.T)
    )
    return processes._replace(data=group_of("connect", split), tensor=group_of("connect", shared))


def take_gpu(processes: Processes, device: torch.device) -> None:
    """Makes the GPU of the process's local rank its current one, before anything is on a GPU.

    Args:
        processes: joined, or alone.
        device: of the run.

    Raises:
        ValueError: if there are more processes than GPUs.
    """
    if processes.channel is None or device.type != "cuda":
        return
    needed, count = processes.channel.world.local_size, torch.cuda.device_count()
    if needed > count:
        raise ValueError(
            f"{needed} processes on this machine, and torch sees {count_noun(count, 'GPU')}: "
            f"each takes one; start {count}, or use --device cpu"
        )
    torch.cuda.set_device(processes.channel.world.local_rank)


def after_first(processes: Processes, function: Callable[[], Result], *, waits_for: str) -> Result | None:
    """Calls a function on process 0; the others wait until it has returned.

    Args:
        processes: joined, or alone.
        function: may take hours; if it fails, process 0 tells the others as it ends.
        waits_for: what the others wait for, for messages.

    Returns:
        Its result on process 0; None on the others.

    Raises:
        EndedError: on the others, if process 0 fails or dies.
    """
    result = function() if processes.first else None
    if processes.channel is not None:
        channels.exchange(processes.channel, waits_for, None, waits_for=waits_for)
    return result


def share_first(processes: Processes, value: Any, *, about: str) -> Any:
    """Returns process 0's value on all processes.

    Args:
        processes: joined, or alone.
        value: JSON; only process 0's is used.
        about: what the value is, for messages.
    """
    if processes.channel is None:
        return value
    value = value if processes.first else None
    return channels.exchange(processes.channel, about, value, waits_for=f"process 0 to tell {about}")[0]


def gather_values(processes: Processes, value: Any, *, about: str) -> list[Any]:
    """Returns the values of all processes, in the order of their ranks.

    Args:
        processes: joined, or alone.
        value: JSON.
        about: what the values are, for messages.
    """
    if processes.channel is None:
        return [value]
    return channels.exchange(processes.channel, about, value, waits_for=f"the {about} of the others")


def compare(processes: Processes, facts: Mapping[str, Any], *, about: str) -> None:
    """Checks that the processes have the same flags, data or code.

    Args:
        processes: joined, or alone.
        facts: {name: value}, JSON.
        about: what the facts are, for messages.

    Raises:
        ValueError: on process 0, if an entry differs; it names the first.
        EndedError: on the others.
    """
    if processes.channel is None:
        return
    waits_for = f"{about} of the other processes"
    all_facts = channels.exchange(
        processes.channel, about, dict(facts), waits_for=waits_for, seconds=SECONDS_TO_COMPARE
    )
    for rank, others in enumerate(all_facts):
        for name in dict.fromkeys((*all_facts[0], *others)):
            one, other = (str(facts.get(name, "not there")) for facts in (all_facts[0], others))
            if one != other:
                raise ValueError(
                    f"process {rank} differs from process 0 in {about}: {name} is {_shorten(other)}, not "
                    f"{_shorten(one)}; start all processes with the same command, data and code"
                )


def agree(processes: Processes, number: int) -> int:
    """Returns the largest number of all processes; all must call it at the same place.

    Args:
        processes: with their group, or alone.
        number: such as a signal's, or 0.
    """
    if processes.group is None:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=processes.group.handle)
    return int(largest)


def find_cause(processes: Processes, seconds: float = 1.0) -> End | None:
    """Waits for the error or the death of another process, the probable cause of a failure here.

    Args:
        processes: joined, or alone.
        seconds: longest wait.

    Returns:
        Its End; None if the others go on, and for a process that is alone.
    """
    return None if processes.channel is None else channels.find_cause(processes.channel, seconds)


def conclude(processes: Processes, end: End) -> End:
    """Agrees on the exit code; see `stages.run.channel.conclude`.

    Args:
        processes: joined, or alone.
        end: of this process.
    """
    return end if processes.channel is None else channels.conclude(processes.channel, end, release)


def release() -> None:
    """Leaves the group, so that no other process waits for this one in a collective."""
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # an error's traceback may still hold the group
        leaving = threading.Thread(target=partial(_suppressed, dist.destroy_process_group), daemon=True)
        leaving.start()
        leaving.join(2.0)  # NCCL may wait for a collective that never ends


def end_with_launcher() -> None:
    """Sends SIGTERM to this process once `intro2llm launch`, which started it, has been killed."""
    if os.environ.get(LAUNCHER):
        watching = partial(_watch_parent, int(os.environ[LAUNCHER]))
        threading.Thread(target=watching, name="launcher", daemon=True).start()


def describe_code() -> dict[str, str]:
    """Returns the versions of package and torch, and the digest of the source of all packages."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(path for name in PACKAGES for path in (root / name).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return {
        "intro2llm": version("intro2llm"),
        "torch": str(torch.__version__),
        "source": f"sha256:{digest.hexdigest()[:16]}",
    }


@contextmanager
def _raising_signal() -> Iterator[Callable[[], Any]]:
    """Yields a function, for other threads, that makes the main thread raise EndedError once."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise EndedError("another process has ended")

    if threading.current_thread() is not threading.main_thread():
        yield int  # only the main thread receives signals
        return
    previous = signal.signal(signal.SIGURG, stop)
    try:
        yield partial(signal.pthread_kill, threading.get_ident(), signal.SIGURG)
    finally:
        signal.signal(signal.SIGURG, previous)


def _watch_parent(pid: int) -> None:
    """Waits until this process has another parent."""
    while os.getppid() == pid:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def _suppressed(function: Callable[[], Any]) -> None:
    """Calls a function whose error does not matter any more."""
    with suppress(Exception):
        function()


def _shorten(text: str) -> str:
    """A value in a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."
