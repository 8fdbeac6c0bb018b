"""Attempts: a process that fails is not waited for; with a model, see `tests/laws/test_sharded.py`."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist

from pure.parallel.agreement import compute_in_group
from pure.parallel.attempt import PeerError, before_gathering
from pure.parallel.group import Group, group_of, within
from pure.types import Tree
from tests.crew import Crew

pytestmark = pytest.mark.processes


def gather_and_fail(gatherings: tuple[int, int], fails: bool, swallows: bool = False) -> str:
    """The message on this process if each gathers so often, and process 1 then fails."""
    group, rank = group_of("test", dist.group.WORLD), dist.get_rank()

    def compute(batch: Tree) -> int:
        for _ in range(gatherings[rank]):
            try:
                before_gathering(group)
            except PeerError:
                if not swallows:
                    raise
        if fails and rank == 1:
            raise ZeroDivisionError("on process 1")
        return 7

    with within(group):
        try:
            return str(compute_in_group(compute, {"x": torch.arange(4)})[0])
        except (ValueError, ZeroDivisionError) as error:
            return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("swallows", [False, True])
def test_a_process_that_fails_is_not_waited_for(two: Crew, count: int, swallows: bool) -> None:
    start = time.monotonic()
    answers = two.run(gather_and_fail, (3, count), True, swallows)
    assert answers == ["ZeroDivisionError: on process 1"] * 2
    assert two.run(gather_and_fail, (3, 3), False) == ["7", "7"]
    assert time.monotonic() - start < 30


def test_processes_that_gather_different_numbers_of_times_are_refused(two: Crew) -> None:
    answers = two.run(gather_and_fail, (3, 1), False)
    assert all(answer.startswith("ValueError: data_parallel: the result of a loss") for answer in answers)


def test_nothing_is_compared_outside_of_an_attempt() -> None:
    before_gathering(Group(0, 2, None))
    with within(Group(0, 2, None)):
        before_gathering(Group(0, 2, None))
