"""Saving beside the training: the state is copied, the step goes on, and a thread brings the copy to the
disk."""

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
        save: (state, **options) -> None. Waits for the save before, copies the state, starts saving the copy;
            `options` are those of `checkpoint.save`, over those that the saver was made with. If the save
            before failed, its error is raised here, *after* the new one has begun, so that this state is not
            lost as well.
        wait: () -> Path | None. Waits for the save in flight, raises its error; returns where the last one
            went.
    """

    save: Callable[..., None]
    wait: Callable[[], Path | None]


def saver(folder: str | os.PathLike[str], **options: Any) -> Saver:
    """Makes a Saver for a run's folder.

    Writing and fsyncing gigabytes takes seconds in which a step could be computed. Copying them in memory
    takes a tenth of that, and is all that the training waits for: after it, the caller may overwrite (donate)
    the state.

    Args:
        folder: of the run.
        options: for every `checkpoint.save`, such as keep_last and fingerprint.

    Returns:
        Saver(save, wait). Call `wait` at the end: an error of the last save shows there. (A process that ends
            without
        it still finishes the save, unless it is killed.)

    Edge cases: memory holds one copy of the state from `save` until the disk has it; a tensor on a GPU is
    copied to the host.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as run:
        ...     background = saver(run, keep_last=2)
        ...     background.save({"w": torch.ones(1)}, step=1)
        ...     print(background.wait().name)
        step-00000001
    """
    flying: list[Future] = []  # at most one
    done: list[Path] = []  # the last that succeeded

    def land() -> BaseException | None:
        """Waits for the save in flight; returns its error."""
        error = flying[0].exception() if flying else None
        if flying and error is None:
            done[:] = [flying[0].result()]
        flying.clear()
        return error

    def save(state: Tree, **more: Any) -> None:
        error = land()
        flying.append(_start(partial(checkpoint.save, folder, snapshot(state), **{**options, **more})))
        if error is not None:
            raise error

    def wait() -> Path | None:
        if (error := land()) is not None:
            raise error
        return done[0] if done else None

    return Saver(save, wait)


def snapshot(state: Tree) -> Tree:
    """Copies a state into host memory of its own, so that the original may be overwritten."""
    return tree.map(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, Tensor) else x, state)


def _start(function: Callable[[], Any]) -> Future:
    """Runs a function in a thread of its own, for which the process waits before it ends."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint").start()
    return future
