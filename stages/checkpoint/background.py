"""Save in the background: the state is copied, and a thread writes the copy while the training continues."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pure import tree
from pure.parallel.group import Group, group_of
from pure.types import Tree
from stages.checkpoint import checkpoint
from stages.checkpoint.agreement import check_replicas, is_first
from stages.checkpoint.groups import check_groups
from stages.checkpoint.pieces import copy_to_host
from stages.checkpoint.together import Running, begin, finish, group_of_state, has_parts
from stages.checkpoint.word_files import make_wait


class Saver(NamedTuple):
    """Saves in the background, one save at a time.

    Fields:
        save: (state, **arguments) -> None. Waits for the previous save, copies the state, starts saving the
            copy; `arguments` are those of `checkpoint.save`, and override those of `make_saver`. If the
            previous save failed, its error is raised here, *after* the new save has begun, so that this state
            is not lost as well.
        wait: () -> Path | None. Waits for the running save and raises its error; returns the folder of the
            last save that succeeded.
        close: () -> None. Waits for this process's part of the running save, and raises nothing: for a
            process that ends by an error, which the others may not have met.
    """

    save: Callable[..., None]
    wait: Callable[[], Path | None]
    close: Callable[[], None]


def make_saver(folder: str | os.PathLike[str], *, group: Any = None, **arguments: Any) -> Saver:
    """Makes a Saver for a run's folder.

    Writing and fsyncing gigabytes takes seconds in which a step could be computed. Copying them in memory
    takes a tenth of that, and training waits only for the copy: then the caller may overwrite (donate) the
    state.

    Args:
        folder: the run's folder.
        group: the processes that hold the state. All of them make the same calls of `save` and `wait`, which
            agree on errors: one that failed on any process is raised on all. As in `checkpoint.save`.
        arguments: those of every `checkpoint.save`, such as keep_last and fingerprint.

    Returns:
        Saver(save, wait, close). Call `wait` at the end: it raises the error of the last save, if it failed.
        (A process that ends without it still finishes the save, unless it is killed.)

    Edge cases: memory holds one copy of the state from `save` until the disk has it; a tensor on a GPU is
    copied to the host.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as run:
        ...     background = make_saver(run, keep_last=2)
        ...     background.save({"w": torch.ones(1)}, step=1)
        ...     print(background.wait().name)
        step-00000001
    """
    group = None if group is None else group_of("make_saver", group)
    running: list[Running] = []  # at most one
    last: list[Path] = []  # folder of the last save that succeeded

    def finish_last() -> BaseException | None:
        """Waits for the running save on all processes; returns its error."""
        if not running:
            return None
        try:
            last[:] = [finish(running.pop())]
        except BaseException as raised:
            return raised
        return None

    def save(state: Tree, **overrides: Any) -> None:
        error = finish_last()
        running.append(_begin(Path(folder), state, group, {**arguments, **overrides}))
        if error is not None:
            raise error

    def wait() -> Path | None:
        if (error := finish_last()) is not None:
            raise error
        return last[0] if last else None

    def close() -> None:
        for save in running:
            save.wait.closing.set()
            if save.done.exception() is not None:
                save.discard()

    return Saver(save, wait, close)


def _begin(folder: Path, state: Tree, group: Group | None, arguments: dict[str, Any]) -> Running:
    """Starts this process's part of a save; of a state that all hold, others than the first have none."""
    format = arguments.get("format", "state")
    in_parts = has_parts(state, format)
    if group is not None or in_parts:
        savers = group_of_state(group, state)
        check_replicas(savers, state)
        check_groups(savers, folder, state, arguments.get("step"))
    if in_parts:
        options = {"format": format, **arguments}
        return begin(_run_in_thread, group_of_state(group, state), folder, state, copy=True, **options)
    if group is not None:
        arguments = arguments | {"processes": group.size}
    done: Future = Future()
    try:
        if is_first(group):
            _start(partial(checkpoint.save, folder, snapshot(state), **arguments), done)
        else:
            done.set_result(None)
    except Exception as error:  # no memory for the copy, or no thread: all hear of it at the next call
        done.set_exception(error)
    return Running(group, None, done, make_wait(), lambda: None)


def snapshot(state: Tree) -> Tree:
    """Copies a state into host memory of its own, so that the original may be overwritten."""
    return tree.map(copy_to_host, state)


def _start(function: Callable[[], Any], future: Future) -> None:
    """Runs a function in a new thread, and puts its result into the future."""

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            with suppress(
                InvalidStateError
            ):  # a signal's error, raised as the thread was started, came first
                future.set_exception(error)

    _run_in_thread(run)


def _run_in_thread(function: Callable[[], Any]) -> None:
    """Runs a function in a new thread; the process waits for it before it ends."""
    threading.Thread(target=function, name="checkpoint").start()
