"""Runs `intro2llm` in processes that a test may kill.

They come from a fork server that has torch loaded already, so that each begins in a fraction of a second;
forking the test's own process would copy the locks of its threads.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

Setup = Callable[[], object]


def start_process(
    arguments: list[str],
    setup: Setup | None = None,
    subcommand: str = "pretrain",
    printed: Path | None = None,
) -> ForkServerProcess:
    """Starts `intro2llm SUBCOMMAND ARGUMENTS` in a process of its own, on one thread.

    Args:
        arguments: flags.
        setup: called in the process before the command; picklable.
        subcommand: the subcommand's name.
        printed: path whose `.out` and `.err` get what it prints; None leaves it silent.
    """
    return start_body(_run, subcommand, arguments, setup, printed)


def start_body(body: Callable[..., None], *args: Any) -> ForkServerProcess:
    """Starts a process that calls a picklable function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.preloaded"])
    process = context.Process(target=body, args=args, daemon=True)
    process.start()
    return process


def start_joined(
    count: int,
    folder: Path,
    arguments: list[str] | list[list[str]],
    setups: Mapping[int, Setup] | None = None,
    subcommand: str | list[str] = "pretrain",
) -> list[ForkServerProcess]:
    """Starts `intro2llm SUBCOMMAND ARGUMENTS` in processes that join each other, as torchrun does.

    Args:
        count: their number.
        folder: gets what process R prints, in `R.out` and `R.err`.
        arguments: flags of all, or a list of those of each.
        setups: rank -> called in that process before the command; picklable.
        subcommand: the subcommand's name, or a list of those of each.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(count):
        own = arguments[rank] if isinstance(arguments[0], list) else arguments
        name = subcommand if isinstance(subcommand, str) else subcommand[rank]
        setup = (setups or {}).get(rank)
        processes.append(start_body(_run_joined, name, own, rank, count, port, folder, setup))
    return processes


def free_port() -> int:
    """A port that nothing listens on, below those that a system gives to connections in the meantime."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def join_all(processes: list[ForkServerProcess], seconds: float = 60.0) -> list[int | None]:
    """Waits for processes to end, and returns their exit codes; fails if one does not end in time."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(end - time.monotonic(), 0.0))
    late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not late, f"processes {late} did not end in {seconds} s"
    return [process.exitcode for process in processes]


def wait_for(condition: Callable[[], bool], process: ForkServerProcess, seconds: float = 120.0) -> None:
    """Waits until `condition` holds; fails if the process ends first or the time runs out."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), f"the process ended ({process.exitcode}) before the condition held"
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.005)


def slow_saves(seconds: float, step: int | None = None) -> None:
    """Makes every save (or only the save of `step`) wait before its temporary folder is renamed."""
    from stages.checkpoint import state_file

    original = state_file.write

    def write(path: Path, state: Any) -> Any:
        result = original(path, state)
        if step in (None, int(state.step)):
            time.sleep(seconds)
        return result

    state_file.write = write


def limit_files(size: int) -> None:
    """Lets no file of this process grow beyond `size` bytes, like a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def run_joined(subcommand: str, arguments: list[str], rank: int, count: int, port: int, folder: Path) -> Any:
    """Runs `intro2llm SUBCOMMAND ARGUMENTS` as one of several processes; returns the exit code."""
    try:
        _run_joined(subcommand, arguments, rank, count, port, folder, None)
    except SystemExit as ended:
        sys.stdout.flush()
        return ended.code


def _run_joined(
    subcommand: str,
    arguments: list[str],
    rank: int,
    count: int,
    port: int,
    folder: Path,
    setup: Setup | None,
) -> None:
    """Body of one of several processes: sets the variables of torchrun before `setup` and the command."""
    variables = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(x) for name, x in variables.items()})
    _run(subcommand, arguments, setup, folder / str(rank))


def _run(subcommand: str, arguments: list[str], setup: Setup | None, printed: Path | None = None) -> None:
    """Body of the process: runs the command on one thread, silently, or with its output in two files."""
    import torch

    from stages.cli.main import main

    torch.set_num_threads(1)
    for stream, ending in ((1, ".out"), (2, ".err")):
        path = os.devnull if printed is None else f"{printed}{ending}"
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if setup is not None:
        setup()
    raise SystemExit(main([subcommand, *arguments]))
