"""Save in the background: the state is copied, and a thread writes the copy while the training continues."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pure import tree
from pure.types import Tree
from stages.checkpoint import checkpoint


class Saver(NamedTuple):
    """Saves in the background, one save at a time.

    Fields:
        save: (state, **arguments) -> None. Waits for the previous save, copies the state, starts saving the
            copy; `arguments` are those of `checkpoint.save`, and override those of `make_saver`. If the
            previous save failed, its error is raised here, *after* the new save has begun, so that this state
            is not lost as well.
        wait: () -> Path | None. Waits for the running save and raises its error; returns the folder of the
            last save that succeeded.
    """

    save: Callable[..., None]
    wait: Callable[[], Path | None]


def make_saver(folder: str | os.PathLike[str], **arguments: Any) -> Saver:
    """Makes a Saver for a run's folder.

    Writing and fsyncing gigabytes takes seconds in which a step could be computed. Copying them in memory
    takes a tenth of that, and training waits only for the copy: then the caller may overwrite (donate) the
    state.

    Args:
        folder: the run's folder.
        arguments: those of every `checkpoint.save`, such as keep_last and fingerprint.

    Returns:
        Saver(save, wait). Call `wait` at the end: it raises the error of the last save, if it failed. (A
        process that ends without it still finishes the save, unless it is killed.)

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
    running: list[Future] = []  # at most one
    last: list[Path] = []  # folder of the last save that succeeded

    def finish() -> BaseException | None:
        """Waits for the running save; returns its error."""
        error = running[0].exception() if running else None
        if running and error is None:
            last[:] = [running[0].result()]
        running.clear()
        return error

    def save(state: Tree, **overrides: Any) -> None:
        error = finish()
        running.append(
            _start(partial(checkpoint.save, folder, snapshot(state), **{**arguments, **overrides}))
        )
        if error is not None:
            raise error

    def wait() -> Path | None:
        if (error := finish()) is not None:
            raise error
        return last[0] if last else None

    return Saver(save, wait)


def snapshot(state: Tree) -> Tree:
    """Copies a state into host memory of its own, so that the original may be overwritten."""
    return tree.map(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x, state)


def _start(function: Callable[[], Any]) -> Future:
    """Runs a function in a new thread; the process waits for it before it ends."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint").start()
    return future
