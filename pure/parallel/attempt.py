"""Attempts: a function that all processes compute and that gathers params, which may fail on one of them.

One that has failed is at the comparison that ends the function (`pure.parallel.agreement`), while the others
are at their next gathering. Each gathering is therefore preceded by the same collective.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pure.parallel.collect import run_collective
from pure.parallel.group import Group, data_group

DONE, GATHERING, FAILED = 0, 1, 2
"""What a process does as it compares; the largest decides."""


class Attempt(NamedTuple):
    """A function that all processes compute, and that may fail on one.

    Fields:
        mark: [] int64, checksum of the batch and its structure.
        ended: has an element once another process has failed.
    """

    mark: Tensor
    ended: list[bool]


class PeerError(RuntimeError):
    """Another process has failed in the function that all compute."""


def before_gathering(group: Group) -> None:
    """Check, before a collective inside an attempt, that no other process has failed.

    It is a collective of 24 bytes, made where reading it is free: in eager code on a CPU.

    Args:
        group: the processes of the gathering; nothing is compared unless they are those of the function.

    Raises:
        PeerError: if another process has failed, has another batch, or has ended the function;
            `pure.parallel.agreement.compute_in_group` raises the reason.
    """
    current = data_group()
    if current is None or current.attempt is None or not _has_same_processes(group, current):
        return
    shared: Attempt = current.attempt
    if not shared.ended:
        largest = exchange_largest(current, shared.mark, GATHERING)
        if largest[0] == -largest[1] and largest[2] == GATHERING:
            return
        shared.ended.append(True)
    raise PeerError("another process has failed, or has another batch; see the error of this step")


def exchange_largest(group: Group, mark: Tensor, state: int) -> Tensor:
    """Return the largest mark, negative mark and state of all processes; one collective of 24 bytes.

    Args:
        group: the processes.
        mark: [] int64, which is the same on all where the largest is the negative of the largest negative.
        state: DONE, GATHERING or FAILED.

    Returns:
        [3] int64, the same on all processes.
    """
    largest = torch.stack([mark, -mark, torch.full_like(mark, state)])
    run_collective("comparison of the batches", group, dist.all_reduce, largest, op=dist.ReduceOp.MAX)
    return largest


def _has_same_processes(one: Group, other: Group) -> bool:
    """Reports if two groups are the same processes."""
    if one.handle is other.handle:
        return True
    return dist.get_process_group_ranks(one.handle) == dist.get_process_group_ranks(other.handle)
