"""Record of the cut models that a step calls: their leaves' norms are sums over the processes.

A tensor-parallel model (`pure.nn.tensor_parallel`) says so when it is called. A step collects it, and so no
loss or stage has an argument for it, and no step can miss it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pure.parallel.group import Group

_RECORDS: list[list[CutModel]] = []
"""Records that are being written, the innermost last; see `pure.parallel.group._DATA`."""


class CutModel(NamedTuple):
    """A model of which each process of a group has a part.

    Fields:
        group: the processes.
        config: the configuration of the whole model.
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


def note_cut(group: Group, config: Any) -> None:
    """Tell the step that is running that it calls a cut model.

    Args:
        group: the processes.
        config: of the whole model.
    """
    if _RECORDS and not any(model.group == group and model.config == config for model in _RECORDS[-1]):
        _RECORDS[-1].append(CutModel(group, config))
