"""Runs `intro2llm` in processes that a test may kill.

They come from a fork server that has torch loaded already, so that each begins in a fraction of a second;
forking the test's own process would copy the locks of its threads.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

Setup = Callable[[], object]


def start_process(
    arguments: list[str], setup: Setup | None = None, subcommand: str = "pretrain"
) -> ForkServerProcess:
    """Starts `intro2llm SUBCOMMAND ARGUMENTS` in a process of its own, silent, on one thread.

    Args:
        arguments: flags.
        setup: called in the process before the command; picklable.
        subcommand: the subcommand's name.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.preloaded"])
    process = context.Process(target=_run, args=(subcommand, arguments, setup), daemon=True)
    process.start()
    return process


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


def _run(subcommand: str, arguments: list[str], setup: Setup | None) -> None:
    """Body of the process: runs the command silently on one thread."""
    import torch

    from stages.cli.main import main

    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    if setup is not None:
        setup()
    raise SystemExit(main([subcommand, *arguments]))
