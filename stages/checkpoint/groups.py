"""Refuse that two groups of processes save one checkpoint: each would write what it has, the last remains.

Such groups hold different states, or different parts of one (`pure.nn.tensor_parallel` beside
`stages.sharded`). A group does not know of the others; the store by which all processes found each other
does.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch.distributed as dist
from torch.distributed import distributed_c10d

from pure.parallel.group import Group
from pure.types import Tree
from stages.checkpoint import directories, saving
from stages.checkpoint.agreement import agree, is_first


def check_groups(group: Group, folder: str | os.PathLike[str], state: Tree, step: int | None) -> None:
    """Refuse a checkpoint that another group of processes has saved, or saves now; a collective call.

    Args:
        group: the processes that save. Nothing is compared for one that is alone, or for all processes.
        folder: the run's folder.
        state, step: as in `checkpoint.save`.

    Raises:
        ValueError: on all processes of the group; it names both groups.

    Edge cases: a folder of the same name on another machine's own disk is another folder.
    """
    if group.handle is None or group.size == dist.get_world_size():
        return
    error = None
    if is_first(group):
        try:
            _claim(group, directories.folder_of(Path(folder).absolute(), saving.read_step(state, step)))
        except ValueError as raised:
            error = raised
    agree(group, error)


def _claim(group: Group, final: Path) -> None:
    """Writes the group's name for a folder into the store; raises ValueError if another group has."""
    own = f"{', '.join(map(str, dist.get_process_group_ranks(group.handle)))} on {platform.node()}"
    store = distributed_c10d._get_default_store()
    other = store.compare_set(f"checkpoint {final}", "", own).decode()
    if other == own:
        return
    ranks, _, machine = other.partition(" on ")
    temporary = final.with_name(final.name + ".tmp")
    if machine == platform.node() or final.exists() or temporary.exists():
        raise ValueError(
            f"checkpoint.save: the processes {own.partition(' on ')[0]} and the processes {ranks} save one "
            f"checkpoint, {final}; give each group a folder of its own. If each has a part of the model "
            "(tensor_parallel), delete that checkpoint, and save the whole with the group of all processes: "
            "join_params(gather(state), model), of pure.nn.tensor_params and pure.parallel.rows"
        )
