"""`intro2llm` in processes that a test may kill.

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

Begin = Callable[[], object]


def child(
    arguments: list[str], begin: Begin | None = None, subcommand: str = "pretrain"
) -> ForkServerProcess:
    """Starts `intro2llm SUBCOMMAND ARGUMENTS` in a process of its own, silent, on one thread.

    Args:
        arguments: flags.
        begin: called in the process first; picklable.
        subcommand: which.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.preloaded"])
    process = context.Process(target=_run, args=(subcommand, arguments, begin), daemon=True)
    process.start()
    return process


def wait_for(found: Callable[[], bool], process: ForkServerProcess, seconds: float = 120.0) -> None:
    """Until something is there; the process must not end before."""
    end = time.monotonic() + seconds
    while not found():
        assert process.is_alive(), f"the process ended ({process.exitcode}) before it came"
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def slow_saves(seconds: float, step: int | None = None) -> None:
    """Makes saves (or that of one step) wait inside their temporary folder."""
    from stages.checkpoint import state_file

    written = state_file.write

    def write(path: Path, state: Any) -> Any:
        result = written(path, state)
        if step in (None, int(state.step)):
            time.sleep(seconds)
        return result

    state_file.write = write


def limit_files(size: int) -> None:
    """Lets no file of this process grow beyond `size` bytes: a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _run(subcommand: str, arguments: list[str], begin: Begin | None) -> None:
    """The process."""
    import torch

    from stages.cli.main import main

    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    if begin is not None:
        begin()
    raise SystemExit(main([subcommand, *arguments]))
