"""Group: the processes that compute a step together, and this process's place among them.

A step reads the group of its data from here, so that no loss, optimizer or stage has an argument for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

_DATA: list[Group] = []
"""Groups in force, the innermost last. (A list, as torch.compile guards its contents; it cannot trace a
ContextVar.)"""


class Group(NamedTuple):
    """Processes that work together.

    Fields:
        rank: this process's number among them, from 0.
        size: their number.
        handle: torch's ProcessGroup.
        mesh: the DeviceMesh over which states are cut into rows (`pure.parallel.rows`); None: they are whole.
        layers: whether the params of a loss are rows, gathered layer by layer (`pure.parallel.layers`).
        scatter: whether `accumulate` leaves the gradients of this process as they are, for its caller to sum.
        errors_shared: whether an error of a loss on one process is raised on all. False where the loss has
            collectives that sum its gradients, in which the others wait: one with an error must then end.
        attempt: while a loss is computed whose errors are shared, `pure.parallel.attempt.Attempt`.
    """

    rank: int
    size: int
    handle: Any
    mesh: DeviceMesh | None = None
    layers: bool = False
    scatter: bool = False
    errors_shared: bool = True
    attempt: Any = None


def group_of(caller: str, mesh: DeviceMesh | Group | Any) -> Group:
    """Return the group of a mesh.

    Args:
        caller: the caller's name in an error.
        mesh: a DeviceMesh with one dimension, such as `init_device_mesh("cpu", (4,))`, or one dimension of a
            larger one, `mesh["data"]`; a ProcessGroup; or a Group.

    Returns:
        Group.

    Edge cases: a mesh of some of the processes, such as each row of a larger one, is a group of its own, with
    its own ranks; other groups may train something else meanwhile.

    Raises:
        ValueError: for a mesh with more dimensions, a group without this process, or before
            `torch.distributed.init_process_group`.
        TypeError: for anything else.
    """
    if isinstance(mesh, Group):
        return mesh
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            f"{caller}: this process has not joined others; start it with torchrun, and call "
            "torch.distributed.init_process_group first"
        )
    if isinstance(mesh, DeviceMesh):
        if mesh.ndim != 1:
            names = mesh.mesh_dim_names
            one = f"mesh[{names[0]!r}]" if names else "mesh.get_group(0)"
            raise ValueError(
                f"{caller}: expected a mesh with one dimension, got {mesh.ndim}; give one of them, such as "
                f"{one}"
            )
        mesh = mesh.get_group(0) if mesh.get_coordinate() is not None else dist.GroupMember.NON_GROUP_MEMBER
    outside = dist.GroupMember.NON_GROUP_MEMBER  # what new_group returns to processes that it leaves out
    if isinstance(mesh, type(outside)) and mesh == outside:
        raise ValueError(f"{caller}: this process is not in the group; give one that it is in")
    if not isinstance(mesh, dist.ProcessGroup):
        raise TypeError(
            f"{caller}: expected a DeviceMesh or a ProcessGroup, got {type(mesh).__name__}; write "
            "torch.distributed.device_mesh.init_device_mesh('cpu', (number of processes,))"
        )
    return Group(dist.get_rank(mesh), dist.get_world_size(mesh), mesh)


def data_group() -> Group | None:
    """Return the processes that share the batch of the step that is running, or None.

    Example:
        >>> data_group() is None
        True
    """
    return _DATA[-1] if _DATA else None


def is_grouped(function: Any) -> bool:
    """Check if a function is computed by several processes: a partial whose own arguments have a Group.

    Args:
        function: such as `stage.init` of a stage of `stages.data_parallel`.

    Example:
        >>> is_grouped(partial(run_within, max, Group(0, 2, None))), is_grouped(max)
        (True, False)
    """
    return isinstance(function, partial) and any(isinstance(x, Group) for x in function.args)


@contextmanager
def within(group: Group | None) -> Iterator[None]:
    """Let the block compute its batches together with a group; None: alone."""
    if group is None and not _DATA:
        yield
        return
    if group is None:
        saved = list(_DATA)
        _DATA.clear()
        try:
            yield
        finally:
            _DATA.extend(saved)
        return
    _DATA.append(group)
    try:
        yield
    finally:
        _DATA.pop()


def run_within(function: Callable, group: Group | None, *args: Any, **options: Any) -> Any:
    """Call a function together with a group; `partial(run_within, function, group)` is the function.

    Args:
        function: any callable, whose hooks read `data_group`.
        group: the processes; all of them must make the same calls in the same order.
        args, options: of the function.

    Returns:
        Its result.

    Example:
        >>> run_within(lambda x: (x, data_group().size), Group(0, 1, None), 5)
        (5, 1)
    """
    with within(group):
        return function(*args, **options)
