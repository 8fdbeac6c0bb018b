"""One save of several processes: they agree to begin it, each writes in a thread, they agree on its end."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pure.parallel import rows
from pure.parallel.group import Group
from pure.types import Tree
from stages.checkpoint import directories, pieces, saving
from stages.checkpoint.agreement import agree, is_first
from stages.checkpoint.manifest import PIECES
from stages.checkpoint.records import check_pieces
from stages.checkpoint.saving import Plan

Start = Callable[[Callable[[], Any]], None]
"""Runs a function: at once, or in a thread."""


class Running(NamedTuple):
    """A save that has begun.

    Fields:
        group: the processes; None is this one alone.
        own: done when this process has written its piece; None if the first one writes all.
        done: done when the checkpoint is published, on the first process; its result is the folder.
        stop: set to end the wait for the pieces of others.
        closing: set when the run ends by an error.
        discard: removes what was written, after all have stopped writing.
    """

    group: Group | None
    own: Future | None
    done: Future
    stop: threading.Event
    closing: threading.Event
    discard: Callable[[], None]


def begin(start: Start, group: Group, folder: Path, state: Tree, *, copy: bool, **options: Any) -> Running:
    """Begins to save a state that is cut into rows; a collective call.

    Args:
        start: runs the function that writes.
        group: the processes.
        folder: the run's folder.
        state: tree of which a leaf is cut.
        copy: copy the state first, so that it may be overwritten.
        options: as in `saving.plan`.

    Returns:
        Running, to be given to `finish`.

    Steps:
        1. Check the arguments, and copy this process's rows.
        2. The first process makes the temporary folder; all agree that it did.
        3. Each process writes its piece.
        4. The first waits for the records of all pieces, and publishes.

    Raises:
        OSError, ValueError, TypeError, SerialError: an error of any process in steps 1 and 2.
    """
    error, token, planned, part = None, "", None, None
    temporary = Path()
    try:
        # 1. Own part.
        planned = saving.plan(folder, state, processes=group.size, **options)
        part = pieces.own_part(state, group, copy=copy)
        # 2. Temporary folder.
        temporary = planned.final.with_name(planned.final.name + ".tmp")
        if is_first(group):
            token = f"{os.getpid()}-{time.time_ns()}"
            with saving.explain_errors(planned.final):
                temporary = directories.make_temporary(planned.final)
    except Exception as raised:
        error = raised
    answers = agree(group, error, (token, str(temporary)))
    assert planned is not None
    assert part is not None
    token = answers[0][0]
    # 3. and 4. Pieces.
    stop, closing = threading.Event(), threading.Event()
    own: Future = Future()
    done: Future = Future()
    write = partial(pieces.write_piece, temporary, part, group, token)
    finish_save = partial(_publish, planned, temporary, group, token, stop, closing)
    start(partial(_run, planned, write, own, finish_save if is_first(group) else _return_none, done))
    discard = partial(shutil.rmtree, temporary, ignore_errors=True) if is_first(group) else _return_none
    return Running(group, own, done, stop, closing, discard)


def finish(save: Running) -> Path:
    """Waits until a save has ended on all processes; a collective call if there is a group.

    Args:
        save: from `begin`.

    Returns:
        The folder of the checkpoint.

    Raises:
        BaseException: the error of any process, on all.
    """
    try:
        if save.own is not None:
            agree(save.group, save.own.exception())
    except BaseException:
        save.stop.set()
        save.done.exception()
        save.discard()
        raise
    error = save.done.exception()
    try:
        return agree(save.group, error, None if error is not None else save.done.result())[0]
    except BaseException:
        save.discard()
        raise


def save_pieces(
    group: Group | None, folder: str | os.PathLike[str], state: Tree, options: dict[str, Any]
) -> Path:
    """Saves a state that is cut into rows, and returns when it is on the disk; a collective call.

    Args:
        group: the processes; None is the group of the state's mesh.
        folder: the run's folder.
        state: tree of which a leaf is cut.
        options: as in `saving.plan`.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError, ValueError, TypeError, SerialError: as `checkpoint.save`, on all processes.
    """
    group = group or rows.group_of_rows(state)
    return finish(begin(lambda run: run(), group, Path(folder), state, copy=False, **options))


def is_cut(state: Tree) -> bool:
    """Tells whether each process holds only rows of a state."""
    return rows.is_cut(state)


def _run(
    planned: Plan, write: Callable[[], None], own: Future, publish: Callable[[], Any], done: Future
) -> None:
    """Writes this process's piece, then publishes; fills the futures."""
    try:
        with saving.explain_errors(planned.final):
            write()
    except BaseException as error:
        own.set_exception(error)
        done.set_exception(error)
        return
    own.set_result(None)
    try:
        with saving.explain_errors(planned.final):
            path = publish()
    except BaseException as error:
        done.set_exception(error)
        return
    done.set_result(path)


def _publish(
    planned: Plan, temporary: Path, group: Group, token: str, stop: threading.Event, closing: threading.Event
) -> Path:
    """Waits for all pieces, and publishes the checkpoint."""
    written = pieces.await_pieces(temporary, group.size, token, stop=stop, closing=closing)
    check_pieces(written)
    saving.publish(planned, temporary, planned.record._replace(format=PIECES, pieces=written))
    saving.delete_old(planned)
    return planned.final


def _return_none() -> None:
    """The part of other processes than the first."""
