"""The laws of training on many processes (`pure.parallel.group`): every row of the stages equals one process."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from pure import random, tree
from pure.types import Tree
from stages.data_parallel import data_parallel
from stages.stage import Stage
from tests.crew import Crew, crew
from tests.laws.test_stages import BY_NAME, STAGES, run_steps, same_bits

NAMES = tuple(row.name for row in STAGES)
STEPS = 3


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    with crew(2) as members:
        yield members


@pytest.fixture(scope="module")
def four() -> Iterator[Crew]:
    with crew(4) as members:
        yield members


def distance(a: Tree, b: Tree) -> float:
    """The distance of two trees, relative to the second."""
    pairs = list(zip(tree.leaves(a), tree.leaves(b), strict=True))
    difference = math.sqrt(sum((x.double() - y.double()).square().sum().item() for x, y in pairs))
    return difference / math.sqrt(sum(y.double().square().sum().item() for _, y in pairs))


def train_alone(name: str, rows: int | None = None, accumulation: int = 1) -> Tree:
    """The state after three steps on one process."""
    row = BY_NAME[name]
    return train(row.make(accumulation=accumulation), name, rows)


def train(a_stage: Stage, name: str, rows: int | None = None) -> Tree:
    """The state after three steps, of the first `rows` rows of each batch."""
    batches = [tree.map(lambda x: x[:rows], BY_NAME[name].batch(i)) for i in range(STEPS)]
    return run_steps(a_stage, batches, a_stage.init(random.key(0)))


def train_in_parallel(names: tuple[str, ...], rows: int | None = None) -> dict[str, Tree]:
    """The states after three steps, of each stage."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    return {name: train(data_parallel(BY_NAME[name].make(), mesh), name, rows) for name in names}


def assert_equal_to_one_process(name: str, states: list[Tree], alone: Tree) -> None:
    """Params within 1e-6, metrics within 1e-4, and the same bits on all processes."""
    assert all(same_bits(states[0], other) for other in states[1:])
    assert distance(states[0].params, alone.params) < 1e-6
    for metric, value in alone.metrics.items():
        torch.testing.assert_close(states[0].metrics[metric], value, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_every_stage_on_two_processes_equals_one(two: Crew) -> None:
    names = tuple(name for name in NAMES if name != "own-optax")
    results = two.run(train_in_parallel, names)
    for name in names:
        assert_equal_to_one_process(name, [result[name] for result in results], train_alone(name))
