"""The laws of training on many processes (`pure.parallel`): every row of the stages equals one process.

All rows of a law run in one launch, since a launch costs more than a step. Numbers of several processes differ
from those of one by the order of summation only.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.serial import serial
from pure.transform.cosines import cosines
from pure.transform.dp_sgd import clipped
from pure.transform.gradient import Gradient, accumulation
from pure.transform.noise_scale import noise_scale
from pure.types import Tree
from stages.data_parallel import data_parallel
from stages.pretrain import pretrain
from stages.stage import Stage
from stages.state import TrainState
from tests.crew import Crew
from tests.laws import test_stages
from tests.laws.test_stages import (
    BY_NAME,
    ROWS,
    STAGES,
    rollout_batch,
    run_steps,
    same_bits,
    small,
    text_batch,
)

pytestmark = pytest.mark.processes

NAMES = tuple(
    row.name for row in STAGES if row.name != "own-optax" or importlib.util.find_spec("optax") is not None
)
ONE_OF_EACH = ("own", "pretrain-dropout", "dpo-ipo-dropout-chunk", "kto", "grpo", "ppo")
"""A row of each family, for laws whose subject is the batch."""
STEPS = 2


class Trained(NamedTuple):
    """Two states of a run, and its end after a resume.

    Fields:
        half: before the last step.
        whole: after the last step.
        resumed: after the last step, taken from a state that was read from the bytes of `half`.
    """

    half: TrainState
    whole: TrainState
    resumed: TrainState


def distance(a: Tree, b: Tree) -> float:
    """The distance of two trees, relative to the second."""
    pairs = list(zip(tree.leaves(a), tree.leaves(b), strict=True))
    difference = math.sqrt(sum((x.double() - y.double()).square().sum().item() for x, y in pairs))
    return difference / math.sqrt(sum(y.double().square().sum().item() for _, y in pairs))


@functools.cache
def make(name: str, accumulation: int = 1) -> Stage:
    """A row's stage with a model of one layer, which takes half of the time; its reference is drawn once."""
    with mock.patch.object(test_stages, "small", partial(small, num_hidden_layers=1)):
        return BY_NAME[name].make(accumulation=accumulation)


def together(a_stage: Stage) -> Stage:
    """The stage on all processes of the crew."""
    return data_parallel(a_stage, init_device_mesh("cpu", (torch.distributed.get_world_size(),)))


@functools.cache
def batch_of(name: str, number: int, rows: int = ROWS, weighted: bool = False) -> Tree:
    """The first rows of a batch; of a rollout, the completions of so many prompts. Weights are 0, 1 and 2."""
    row = BY_NAME[name]
    leaves = rows * (2 if row.batch is rollout_batch else 1)
    batch = tree.map(lambda x: x[:leaves], row.batch(number))
    if weighted:
        batch["weights"] = (torch.arange(leaves) % 3).float()
    return batch


def train(a_stage: Stage, batches: list[Tree], start: Tree | None = None) -> Trained:
    """Trains on batches, the last of them also after a resume."""
    half = run_steps(a_stage, batches[:-1], a_stage.init(random.key(0), start))
    back = serial.from_bytes(a_stage.init(random.key(9)), serial.to_bytes(half))
    return Trained(half, a_stage.step(half, batches[-1]), a_stage.step(back, batches[-1]))


@functools.cache
def train_alone(
    name: str, rows: int = ROWS, weighted: bool = False, parts: int = 1, steps: int = STEPS
) -> TrainState:
    """The state after some steps on one process; those of one start are computed once."""
    if not steps:
        return first_state(name)
    before = train_alone(name, rows, weighted, parts, steps - 1)
    return make(name, parts).step(before, batch_of(name, steps - 1, rows, weighted))


@functools.cache
def first_state(name: str) -> TrainState:
    """The state before the first step, which no step changes."""
    return make(name).init(random.key(0))


def train_in_parallel(names: tuple[str, ...], rows: int = ROWS, weighted: bool = False) -> dict[str, Trained]:
    """The runs of several stages, on this process of several."""
    return {
        name: train(together(make(name)), [batch_of(name, i, rows, weighted) for i in range(STEPS)])
        for name in names
    }


def step_in_parallel(
    names: tuple[str, ...], rows: int = ROWS, weighted: bool = False, steps: int = STEPS
) -> dict[str, TrainState]:
    """The last states of several stages, without a resume."""
    states = {}
    for name in names:
        a_stage = together(make(name))
        batches = [batch_of(name, i, rows, weighted) for i in range(steps)]
        states[name] = run_steps(a_stage, batches, a_stage.init(random.key(0)))
    return states


def assert_equal(states: list[TrainState], alone: TrainState, tolerance: float = 1e-6) -> None:
    """The same bits on all processes; params and loss as on one (1e-6), metrics within 1e-4."""
    first = states[0]
    assert all(same_bits(first, other) for other in states[1:])
    assert distance(first.params, alone.params) < tolerance
    torch.testing.assert_close(first.metrics["loss"], alone.metrics["loss"], rtol=tolerance, atol=1e-7)
    assert first.metrics.keys() == alone.metrics.keys()
    for metric, value in alone.metrics.items():
        torch.testing.assert_close(
            first.metrics[metric],
            value,
            rtol=1e-4,
            atol=1e-5,
            equal_nan=True,
            msg=lambda m, n=metric: f"{n}: {m}",
        )


@pytest.fixture(scope="module")
def on_two(two: Crew) -> dict[str, list[Trained]]:
    """The runs of all rows, on each of two processes."""
    results = two.run(train_in_parallel, NAMES)
    return {name: [result[name] for result in results] for name in NAMES}


def test_every_stage_on_two_processes_equals_one(on_two: dict[str, list[Trained]]) -> None:
    for name in NAMES:
        assert_equal([run.whole for run in on_two[name]], train_alone(name))


def test_every_stage_on_four_processes_equals_one(four: Crew) -> None:
    """One step; further ones are those of two processes."""
    names = tuple(name for name in NAMES if name != "own-optax")  # importing JAX four times takes 5 s
    results = four.run(step_in_parallel, names, ROWS, False, 1)
    for name in names:
        assert_equal([result[name] for result in results], train_alone(name, steps=1))


def test_two_processes_are_two_micro_batches_bit_for_bit(on_two: dict[str, list[Trained]]) -> None:
    different = [
        name
        for name in NAMES
        if not same_bits(on_two[name][0].whole.params, train_alone(name, parts=2).params)
    ]
    assert different == []


def test_a_run_resumes_on_as_many_processes_bit_for_bit_and_on_one(on_two: dict[str, list[Trained]]) -> None:
    for name in NAMES:
        for run in on_two[name]:
            assert same_bits(run.resumed, run.whole)
        run = on_two[name][0]
        alone = make(name).step(run.half, batch_of(name, STEPS - 1))
        assert distance(run.whole.params, alone.params) < 1e-6


@pytest.mark.parametrize(("size", "rows"), [(2, 7), (2, 3), (4, 7)])
def test_uneven_batches_equal_one_process(size: int, rows: int, request: pytest.FixtureRequest) -> None:
    """No row is dropped or repeated, as a sampler that pads its data set does, and no mean is one of means."""
    members = request.getfixturevalue({2: "two", 4: "four"}[size])
    results = members.run(step_in_parallel, ONE_OF_EACH, rows)
    for name in ONE_OF_EACH:
        assert_equal([result[name] for result in results], train_alone(name, rows))


def test_rows_that_weigh_nothing_or_twice_equal_one_process(two: Crew) -> None:
    names = tuple(name for name in ONE_OF_EACH if name != "own")  # whose loss does not read weights
    results = two.run(step_in_parallel, names, ROWS, True)
    for name in names:
        alone = train_alone(name, weighted=True)
        assert distance(train_alone(name).params, alone.params) > 1e-4
        assert_equal([result[name] for result in results], alone)


def poison_last_row(name: str) -> Tree:
    """A batch whose last row, of the last process, is not finite."""
    batch = batch_of(name, 0)
    if name == "own":
        return {**batch, "x": torch.where(torch.arange(ROWS)[:, None] == ROWS - 1, torch.nan, batch["x"])}
    weights = torch.ones(len(next(iter(batch.values()))))
    weights[-1] = torch.nan
    return {**batch, "weights": weights}


def skip_in_parallel(names: tuple[str, ...]) -> dict[str, tuple[TrainState, TrainState]]:
    """The states before and after a poisoned step."""
    pairs = {}
    for name in names:
        a_stage = together(make(name))
        state = a_stage.step(a_stage.init(random.key(0)), batch_of(name, 1))
        pairs[name] = state, a_stage.step(state, poison_last_row(name))
    return pairs


def test_a_number_that_is_not_finite_on_one_process_skips_the_step_on_all(two: Crew) -> None:
    """A process that updated alone would have other params from then on."""
    names = ("own", "pretrain", "dpo", "grpo")
    results = two.run(skip_in_parallel, names)
    for name in names:
        alone = make(name).step(results[0][name][0], poison_last_row(name))
        for before, after in (result[name] for result in results):
            assert same_bits((before.params, before.opt_state), (after.params, after.opt_state))
            assert after.metrics["nonfinite_leaf"] == alone.metrics["nonfinite_leaf"] >= 0
            assert after.step == 2


GRADIENTS: Mapping[str, Callable[[], Gradient]] = {
    "accumulation": partial(accumulation, 2),
    "noise_scale": partial(noise_scale, 4),
    "cosines": partial(cosines, 4),
    "cosines-whole": cosines,
    "clipped": partial(clipped, 0.5),
    "clipped-noise-parts": partial(clipped, 0.5, noise=0.3, parts=2),
    "clipped-two-passes": partial(clipped, 0.5, noise=0.3, keep=False),
}
"""Every Gradient of the library, which looks at gradients of parts of the batch."""


def measure(name: str, wrap: Callable[[Stage], Stage], rows: int) -> TrainState:
    """The state after three steps with a Gradient."""
    a_stage = wrap(
        pretrain(transformer(small(num_hidden_layers=1)), optim.sgd(0.1), gradient=GRADIENTS[name]())
    )
    batches = [tree.map(lambda x: x[:rows], text_batch(i)) for i in range(3)]
    return run_steps(a_stage, batches, a_stage.init(random.key(0)))


def measure_in_parallel(rows: int) -> dict[str, TrainState]:
    return {name: measure(name, together, rows) for name in GRADIENTS}


def test_every_gradient_equals_one_process(two: Crew) -> None:
    """Clipping is of each example, not of a process's part, and its noise is drawn once; micro-batches that are
    compared are those of one process."""
    results = two.run(measure_in_parallel, ROWS)
    for name in GRADIENTS:
        alone = measure(name, lambda a_stage: a_stage, ROWS)
        assert_equal([result[name] for result in results], alone)
        if tree.leaves(alone.extra):
            torch.testing.assert_close(
                tree.leaves(results[0][name].extra), tree.leaves(alone.extra), rtol=1e-3, atol=1e-6
            )


def gradient_in(dtype: torch.dtype, wrap: Callable[[Stage], Stage]) -> Tree:
    """The gradient of a batch, computed in a dtype, from a step of SGD with rate 1."""
    a_stage = wrap(pretrain(transformer(small(num_hidden_layers=1)), optim.sgd(1.0), compute=dtype))
    state = a_stage.init(
        random.key(0), tree.cast(transformer(small(num_hidden_layers=1)).init(random.key(1)), torch.float64)
    )
    return tree.map(torch.sub, state.params, a_stage.step(state, text_batch(0)).params)


def gradients_in_parallel(dtypes: tuple[torch.dtype, ...]) -> list[Tree]:
    return [gradient_in(dtype, together) for dtype in dtypes]


def test_half_precision_is_as_near_to_float64_as_on_one_process(four: Crew) -> None:
    dtypes = (torch.bfloat16, torch.float16)
    exact = gradient_in(torch.float64, lambda a_stage: a_stage)
    for dtype, *parts in zip(dtypes, *four.run(gradients_in_parallel, dtypes), strict=True):
        assert all(same_bits(parts[0], other) for other in parts[1:])
        alone = distance(gradient_in(dtype, lambda a_stage: a_stage), exact)
        assert 0 < distance(parts[0], exact) < 1.1 * alone


def train_in_pairs() -> tuple[TrainState, TrainState]:
    """Two processes of four train together, the other two another run beside them."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("runs", "data"))
    a_stage = data_parallel(make("pretrain"), mesh["data"])
    run = torch.distributed.get_rank() // 2
    state = a_stage.init(random.key(run))
    return state, a_stage.step(state, text_batch(run))


def test_two_groups_train_two_runs_side_by_side(four: Crew) -> None:
    states = four.run(train_in_pairs)
    for run in (0, 1):
        alone = make("pretrain").step(states[2 * run][0], text_batch(run))
        assert_equal([states[2 * run][1], states[2 * run + 1][1]], alone)
    assert not same_bits(states[0][1], states[2][1])
