"""One save of several processes: they agree to begin it, each writes in a thread, they agree on its end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pure.parallel import rows
from pure.parallel.group import Group
from pure.types import Tree
from stages.checkpoint import dcp, directories, pieces, saving
from stages.checkpoint.agreement import agree, is_first
from stages.checkpoint.saving import Format, Plan, Writing
from stages.checkpoint.word_files import Wait, await_words, leave_word, make_wait

Start = Callable[[Callable[[], Any]], None]
"""Runs a function: at once, or in a thread."""

_REMOVALS = 50  # attempts, in a second


class Running(NamedTuple):
    """A save that has begun.

    Fields:
        group: the processes; None is this one alone.
        own: done when this process has written its part; None if the first one writes all.
        done: done when the checkpoint is published, on the first process; its result is the folder.
        wait: events that end the wait for the parts of others.
        discard: removes what was written, after all have stopped writing.
    """

    group: Group | None
    own: Future | None
    done: Future
    wait: Wait
    discard: Callable[[], None]


def begin(
    start: Start,
    group: Group,
    folder: Path,
    state: Tree,
    *,
    copy: bool,
    format: Format,
    **options: Any,
) -> Running:
    """Begins to save a state of which each process writes a part; a collective call.

    Args:
        start: runs the function that writes.
        group: the processes.
        folder: the run's folder.
        state: tree whose leaves are cut into rows; for "dcp" any.
        copy: copy the state first, so that it may be overwritten.
        format: "state" (`pieces`) or "dcp".
        options: as in `saving.plan`.

    Returns:
        Running, to be given to `finish`.

    Steps:
        1. Check the arguments, and copy this process's part (DCP: plan it).
        2. The first process makes the temporary folder; all agree that it did (DCP: and exchange plans).
        3. Each process writes its part, and leaves word.
        4. The first waits for the word of all, and publishes.

    Raises:
        OSError, ValueError, TypeError, SerialError: an error of any process in steps 1 and 2.
    """
    error, token, planned, plan = None, "", None, None
    own: dcp.Planned | pieces.Part | None = None
    temporary = Path()
    try:
        # 1. Own part.
        planned = saving.plan(folder, state, processes=group.size, **options)
        if format == "dcp":
            plan, own = dcp.plan_locally(state, group)
        else:
            own = pieces.own_part(state, group, copy=copy)
        # 2. Temporary folder.
        temporary = planned.final.with_name(planned.final.name + ".tmp")
        if is_first(group):
            token = f"{os.getpid()}-{time.time_ns()}"
            with saving.explain_errors(planned.final):
                temporary = directories.make_temporary(planned.final)
    except Exception as raised:
        error = raised
    try:
        answers = agree(group, error, (token, plan))
    except BaseException:
        if token:
            _remove(temporary)
        raise
    assert planned is not None
    token = answers[0][0]
    if isinstance(own, dcp.Planned):
        writing = _plan_together(own, [plan for _, plan in answers], temporary, group, copy)
    else:
        assert own is not None
        write = partial(pieces.write_piece, temporary, own, group)
        writing = Writing(write, pieces.gather_records, partial(_piece_file, group.size))
    # 3. and 4. Parts.
    return _start(start, group, planned, temporary, token, writing)


def _plan_together(own: dcp.Planned, plans: list[Any], temporary: Path, group: Group, copy: bool) -> Writing:
    """The plans of the first process for all; an error of the copy is raised where it would be written."""
    together, metadata, error = None, None, None
    try:
        if is_first(group):
            together, metadata = dcp.plan_together(own, plans)
    except Exception as raised:
        error = raised
    try:
        together = agree(group, error, together)[0]
    except BaseException:
        if is_first(group):
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        return dcp.prepare_writing(own, together, metadata, temporary, group, copy)
    except Exception as raised:
        return Writing(partial(_raise, raised), pieces.gather_records, partial(_piece_file, group.size))


def _start(
    start: Start, group: Group, planned: Plan, temporary: Path, token: str, writing: Writing
) -> Running:
    """Starts to write this process's part and, on the first process, to publish."""
    wait = make_wait()
    own: Future = Future()
    done: Future = Future()
    name = pieces.piece_name(group.rank, group.size)
    write = partial(leave_word, temporary, name, token, wait, writing.write)
    publish: Callable[[], Any] = partial(_publish, planned, temporary, group, token, writing, wait)
    discard: Callable[[], None] = partial(_remove, temporary)
    if not is_first(group):
        publish, discard = _return_none, _return_none
    start(partial(_run, planned, write, own, publish, done))
    return Running(group, own, done, wait, discard)


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
        save.wait.stop.set()
        save.done.exception()
        save.discard()
        raise
    error = save.done.exception()
    try:
        return agree(save.group, error, None if error is not None else save.done.result())[0]
    except BaseException:
        save.discard()
        raise


def save_parts(
    group: Group | None, folder: str | os.PathLike[str], state: Tree, format: Format, options: dict[str, Any]
) -> Path:
    """Saves a state of which each process writes a part; it is on the disk then. A collective call.

    Args:
        group: the processes; None is the group of the state's mesh, or this process alone.
        folder: the run's folder.
        state, format: as in `begin`.
        options: as in `saving.plan`.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError, ValueError, TypeError, SerialError: as `checkpoint.save`, on all processes.
    """
    group = group_of_state(group, state)
    return finish(begin(lambda run: run(), group, Path(folder), state, copy=False, format=format, **options))


def group_of_state(group: Group | None, state: Tree) -> Group:
    """Returns the processes that hold a state: the group given, that of its mesh, or this process alone."""
    if group is not None:
        return group
    return rows.group_of_rows(state) if rows.is_cut(state) else Group(0, 1, None)


def has_parts(state: Tree, format: Format) -> bool:
    """Tells if each process writes a part: of a state in rows, and in DCP's format.

    Raises:
        ValueError: for another format.
    """
    if format not in ("state", "dcp"):
        raise ValueError(f"checkpoint: expected the format 'state' or 'dcp', got {format!r}")
    return format == "dcp" or rows.is_cut(state)


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


def _publish(planned: Plan, temporary: Path, group: Group, token: str, writing: Writing, wait: Wait) -> Path:
    """Waits for all parts, and publishes the checkpoint."""
    names = [pieces.piece_name(rank, group.size) for rank in range(group.size)]
    parts = [(name, temporary / writing.file_of(rank)) for rank, name in enumerate(names)]
    words = await_words(temporary, parts, token, wait)
    saving.publish(planned, temporary, writing.gather(planned.record, words))
    saving.delete_old(planned)
    return planned.final


def _piece_file(size: int, rank: int) -> str:
    """The file that a process writes."""
    return f"{pieces.piece_name(rank, size)}.msgpack"


def _raise(error: Exception) -> None:
    """Raises an error."""
    raise error


def _remove(folder: Path) -> None:
    """Removes a folder into which another process may still write for a moment."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)


def _return_none() -> None:
    """The part of other processes than the first."""
