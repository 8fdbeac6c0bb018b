"""Models that groups of processes compute: a record of those that a step calls, and a check of their inputs.

A tensor-parallel or context-parallel model (`pure.nn`) says so when it is called. A step collects it: norms
of cut leaves are sums over the processes, and rewards are computed once. So no loss or stage has an argument
for it, and no step can miss it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.parallel.checksum import tree_checksum
from pure.parallel.group import Group
from pure.parallel.operators import maximum_over_group
from pure.types import Tree

_RECORDS: list[list[CutModel]] = []
"""Records that are being written, the innermost last; see `pure.parallel.group._DATA`."""


class CutModel(NamedTuple):
    """A model that a group of processes computes.

    Fields:
        group: the processes.
        config: the configuration of the whole model, whose leaves are cut; None if its rows are cut, and its
            leaves are whole.
    """

    group: Group
    config: Any


@contextmanager
def record_cut_models() -> Iterator[list[CutModel]]:
    """Collect the cut models that are called inside a `with` statement, each once.

    Example:
        >>> with record_cut_models() as models:
        ...     note_cut(Group(0, 2, None), "config")
        >>> [model.config for model in models]
        ['config']
    """
    models: list[CutModel] = []
    _RECORDS.append(models)
    try:
        yield models
    finally:
        _RECORDS.pop()


def note_cut(group: Group | None, config: Any) -> None:
    """Tell the step that is running that it calls a cut model.

    Args:
        group: the processes; None: not a cut one.
        config: of the whole model, or None, see `CutModel`.
    """
    if group is None or not _RECORDS:
        return
    if not any(model.group == group and model.config == config for model in _RECORDS[-1]):
        _RECORDS[-1].append(CutModel(group, config))


def same_over_group(caller: str, values: Tree, group: Group | None, *, wait: bool = False) -> Tensor | None:
    """Check that all processes of a group have the same values, by one collective of 16 bytes.

    Processes that compute one row together need the same row: with other tokens each they would add parts of
    different sums.

    Args:
        caller: what is compared, in an error.
        values: tree of tensors on one device.
        group: the processes; None: this one only.
        wait: read the result also where that waits for the device.

    Returns:
        [] bool, equal on all processes; None where nothing is compared: alone, for tensors without memory
        ("meta"), or under a transform of torch.func.

    Raises:
        ValueError: on all processes, in eager code on a CPU or with `wait`, if values differ.

    Example:
        >>> same_over_group("tokens", torch.ones(2), None) is None
        True
    """
    if group is None or group.size == 1 or torch._C._are_functorch_transforms_active():
        return None
    leaves = tree.leaves(values)
    device = leaves[0].device.type
    if group.handle is None or device == "meta":
        return None
    mark = tree_checksum(leaves)
    largest = maximum_over_group(torch.stack([mark, -mark]), group)
    same = largest[0] == -largest[1]
    eager = not torch.compiler.is_compiling() and not torch._C._len_torch_dispatch_stack()
    if eager and (wait or device == "cpu") and not same:
        raise ValueError(
            f"{caller} differ between the {group.size} processes that compute a model together; give all of "
            "them the same (no slice by rank: data_parallel over another dimension of the mesh cuts batches)"
        )
    return same
