"""A crew: processes joined by torch.distributed, which call functions together for tests.

They come from a fork server that has torch loaded, so that starting one takes a fraction of a second. Those of
the fixtures `two` and `four` (`tests/conftest.py`) stay for all tests of a session; a test that ends one, or
changes something in it for good, takes a crew of its own.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from tests.stages.children import free_port

SECONDS = 120.0
"""Longest wait for the answers of one call."""


class Crew(NamedTuple):
    """Processes that wait for calls.

    Fields:
        run: (function, *args, seconds=SECONDS) -> [its result on each process]; the function is picklable (of
            a module), and calls torch.distributed as any of torchrun's processes may. If it raises or ends on
            one, AssertionError with all tracebacks.
        size: number of processes.
        is_alive: () -> True if none of them has ended.
    """

    run: Callable[..., list[Any]]
    size: int
    is_alive: Callable[[], bool]


@contextmanager
def crew(size: int) -> Iterator[Crew]:
    """Starts `size` processes joined by gloo, and ends them with the block."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stages.preloaded"])
    port = free_port()
    ends, processes = [], []
    for rank in range(size):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, rank, size, port), daemon=True)
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    try:
        yield Crew(
            run=lambda function, *args, seconds=SECONDS: _call(ends, function, args, seconds),
            size=size,
            is_alive=lambda: all(process.is_alive() for process in processes),
        )
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def lasting_crew(size: int) -> Iterator[Crew]:
    """A crew for many tests: started with the first call, and again after a call that failed or a process that
    ended, since the others may then be left in the middle of a collective."""
    started: list[Crew] = []
    with ExitStack() as stack:

        def end() -> None:
            started.clear()
            stack.close()

        def run(function: Callable, *args: Any, seconds: float = SECONDS) -> list[Any]:
            if started and not started[0].is_alive():
                end()
            if not started:
                started.append(stack.enter_context(crew(size)))
            try:
                return started[0].run(function, *args, seconds=seconds)
            except BaseException:
                end()
                raise

        yield Crew(run, size, lambda: all(members.is_alive() for members in started))


def message_of(function: Callable[[], object]) -> str:
    """The type and text of the error that a function raises, or "no error"."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _call(ends: list[Connection], function: Callable, args: tuple, seconds: float) -> list[Any]:
    """Sends a call to all, and returns the results in order of rank."""
    for end in ends:
        end.send_bytes(_pack((function, args)))
    until = time.monotonic() + seconds
    answers = []
    for rank, end in enumerate(ends):
        assert end.poll(max(until - time.monotonic(), 0.0)), f"process {rank} gave no answer in {seconds} s"
        try:
            answers.append(_unpack(end.recv_bytes()))
        except EOFError:
            answers.append(("it ended", None))
    failed = [f"process {rank}:\n{text}" for rank, (text, _) in enumerate(answers) if text]
    assert not failed, "\n".join(failed)
    return [result for _, result in answers]


def _serve(end: Connection, rank: int, size: int, port: int) -> None:
    """Body of a process: joins the others, then answers calls until its pipe closes."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    gc.set_threshold(20_000, 20, 20)  # as in the tests' own process
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    while True:
        try:
            function, args = _unpack(end.recv_bytes())
        except EOFError:
            break
        try:
            answer = (None, function(*args))
        except BaseException:
            answer = (traceback.format_exc(), None)
        end.send_bytes(_pack(answer))
    dist.destroy_process_group()


def _pack(thing: Any) -> bytes:
    """Pickles; tensors as bytes, not as shared memory."""
    import torch

    torch.save(thing, buffer := io.BytesIO())
    return buffer.getvalue()


def _unpack(data: bytes) -> Any:
    """Inverse of `_pack`."""
    import torch

    return torch.load(io.BytesIO(data), weights_only=False)
