"""Data parallel stages: real rollouts, rewards, mistakes of users, compilers; the laws of all stages are in
`tests/laws/test_processes.py`.

Several tests are named after faults that users of other libraries report again and again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from pure import optim, random, tree
from pure.generation.sampling import Sampling
from pure.nn.transformer import transformer
from pure.parallel.agreement import by_rows
from pure.parallel.group import Group, group_of, within
from pure.random import threefry
from pure.transform.jit import jit
from pure.types import Tree
from stages.branch import branch
from stages.checkpoint.fingerprint import fingerprint
from stages.data_parallel import data_parallel
from stages.grpo import grpo
from stages.population import population
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.rollout import Rollouts
from stages.stage import Stage, examples_of, loss_of, stage
from stages.state import TrainState
from stages.sweep import sweep
from stages.unroll import unroll
from tests.crew import Crew, crew, message_of
from tests.laws.test_processes import assert_equal, together
from tests.laws.test_stages import (
    VOCABULARY,
    assert_close,
    regression_batch,
    same_bits,
    small,
    text_batch,
)

pytestmark = pytest.mark.processes

MODEL = transformer(small(num_hidden_layers=1))
LAST = 1  # the process that differs, where one does
ALONE = Group(rank=0, size=1, handle=None)


def rank() -> int:
    return dist.get_rank()


# Online stages, with rollouts.

ONLINE: Mapping[str, tuple[Callable[..., Stage], dict[str, Any]]] = {
    "grpo": (grpo, {"reference": True, "beta": 0.04}),
    "grpo-twice-batch": (grpo, {"iterations": 2, "scale": "batch", "clip_low": 0.2, "clip_high": 0.2}),
    "grpo-leave-one-out-truncated": (grpo, {"scale": "leave_one_out", "mask_truncated": True, "samples": 3}),
    "grpo-capped": (grpo, {"importance_cap": 2.0, "iterations": 2}),
    "ppo": (ppo, {"epochs": 2, "minibatches": 2, "target_kl": 0.1, "reference": True, "horizon": 100}),
}


class Round(NamedTuple):
    """Two steps of an online stage.

    Fields:
        states: after each step.
        rollouts: of the first step.
        scored: rows that were given to the reward function on this process, one list a call.
    """

    states: list[TrainState]
    rollouts: Rollouts
    scored: list[list[list[int]]]


def prompt_batch(number: int, prompts: int) -> Tree:
    ids = random.randint(random.key(700 + number), (prompts, 3), 2, VOCABULARY).long()
    rows = torch.arange(prompts)
    return {"prompts": ids, "lengths": 1 + rows % 3, "row": rows + prompts * number}


def even_share(rollouts: Rollouts, scored: list | None = None) -> Tensor:
    """Rewards: the share of even tokens, and the length where the last token is even, else none."""
    new = rollouts.tokens[:, -rollouts.mask.shape[1] :]
    even = (new % 2 == 0) & rollouts.mask
    length = rollouts.mask.sum(1)
    if scored is not None:
        scored.append(torch.cat([rollouts.row[:, None], new], 1).tolist())
    share = even.sum(1) / length.clamp(min=1)
    return torch.stack([share, torch.where(even[:, 0], length.float() / 5, torch.nan)], 1)


def make_online(name: str, score: Callable | None) -> Stage:
    """An online stage with two rewards, the second missing for some answers."""
    build, options = ONLINE[name]
    given = {"reference": MODEL.init(random.key(77))} if options.get("reference") else {}
    sampling = Sampling(max_new_tokens=5, stop_tokens=(1, 2, 3))
    fixed = {"samples": 2, "sampling": sampling, "rewards": ("even", "length"), "score": score}
    return build(MODEL, optim.adam(1e-2), **(fixed | dict(options) | given))


def play(name: str, prompts: int, wrap: Callable[[Stage], Stage] = together) -> Round:
    """Two steps, on this process."""
    scored: list = []
    a_stage = wrap(make_online(name, partial(even_share, scored=scored)))
    states = [a_stage.init(random.key(0))]
    batches = [prompt_batch(number, prompts) for number in range(2)]
    assert a_stage.parts is not None
    rollouts = a_stage.parts.rollout(
        states[0].params if "policy" not in states[0].params else states[0].params["policy"],
        batches[0],
        random.key(5),
    )
    for batch in batches:
        states.append(a_stage.step(states[-1], batch))
    return Round(states[1:], rollouts, scored)


def play_all(names: tuple[str, ...], prompts: int) -> dict[str, Round]:
    return {name: play(name, prompts) for name in names}


@pytest.mark.parametrize(
    ("size", "prompts", "names"),
    [(2, 3, tuple(ONLINE)), (4, 5, ("grpo", "grpo-leave-one-out-truncated", "ppo"))],
    ids=["2-3", "4-5"],
)
def test_rollouts_and_rewards_are_those_of_one_process(
    size: int, prompts: int, names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """Each answer is rewarded once in all, and a prompt's answers by one process; in other libraries a reward
    that costs money was paid once for each process."""
    results = request.getfixturevalue({2: "two", 4: "four"}[size]).run(play_all, names, prompts)
    for name in names:
        alone = play(name, prompts, lambda a_stage: a_stage)
        rounds = [result[name] for result in results]
        for one in rounds:
            assert torch.equal(one.rollouts.tokens, alone.rollouts.tokens)
            assert torch.equal(one.rollouts.mask, alone.rollouts.mask)
            torch.testing.assert_close(one.rollouts.logps, alone.rollouts.logps, rtol=1e-5, atol=1e-6)
        for step in (0, 1):
            assert_equal([one.states[step] for one in rounds], alone.states[step])
            calls = [one.scored[step] for one in rounds]
            assert [row for call in calls for row in call] == alone.scored[step]
            prompts_of = [{row[0] for row in call} for call in calls]
            assert sum(map(len, prompts_of)) == prompts


def play_ready_made(prompts: int) -> tuple[TrainState, TrainState]:
    """A step on groups that were sampled before, with `score=None`."""
    batch = ready_made(prompts)
    a_stage = together(make_online("grpo", None))
    state = a_stage.init(random.key(0))
    return state, a_stage.step(state, batch)


def ready_made(prompts: int) -> Tree:
    """Groups, sampled by one process, and their rewards."""
    sampler = make_online("grpo", even_share)
    state = sampler.init(random.key(3))
    assert sampler.parts is not None
    rollouts = sampler.parts.rollout(state.params, prompt_batch(0, prompts), random.key(5))
    return {**rollouts._asdict(), "rewards": even_share(rollouts)}


def test_ready_made_groups_equal_one_process(two: Crew) -> None:
    results = two.run(play_ready_made, 3)
    alone = make_online("grpo", None).step(results[0][0], ready_made(3))
    assert_equal([after for _, after in results], alone)


# Errors of one process.


class MadeUpError(Exception):
    """An error of a user's own."""


ERRORS: Mapping[str, Callable[[], Exception]] = {
    "own": lambda: MadeUpError("no such answer", 3),
    "key": lambda: KeyError("answer"),
    "file": lambda: FileNotFoundError(2, "No such file or directory", "rewards.json"),
    "local": lambda: type("Hidden", (Exception,), {})("not importable"),
}


def raise_in_reward(name: str) -> tuple[str, bool]:
    """The error on this process if one of two processes raises it; if training goes on after."""
    state_of = {}

    def score(rollouts: Rollouts) -> Tensor:
        if state_of["step"] == 1 and rank() == LAST:
            raise ERRORS[name]()
        return even_share(rollouts)

    a_stage = together(make_online("grpo", score))
    state_of["step"] = 0
    state = a_stage.step(a_stage.init(random.key(0)), prompt_batch(0, 4))
    state_of["step"] = 1
    text = message_of(lambda: a_stage.step(state, prompt_batch(1, 4)))
    state_of["step"] = 2
    after = a_stage.step(state, prompt_batch(1, 4))
    return text, int(after.step) == 2


@pytest.mark.parametrize("name", ERRORS)
def test_a_reward_that_raises_on_one_process_raises_on_all(two: Crew, name: str) -> None:
    """The other would wait for the rewards until a timeout, with a message about a timeout."""
    error = ERRORS[name]()
    expected = f"{type(error).__name__}: {error}"
    other = f"RuntimeError: {expected}" if name == "local" else expected
    assert two.run(raise_in_reward, name) == [(other, True), (expected, True)]


def raise_in_loss() -> tuple[str, str, bool]:
    """Errors of labels outside the vocabulary in the last row, and of rewards that are missing throughout."""
    a_stage = together(pretrain(MODEL, optim.sgd(0.1)))
    state = a_stage.init(random.key(0))
    batch = text_batch(0)
    bad = {**batch, "labels": batch["labels"].clone()}
    bad["labels"][-1, 0] = VOCABULARY
    first = message_of(lambda: a_stage.step(state, bad))
    state = a_stage.step(state, batch)
    second = message_of(lambda: a_stage.step(state, bad))
    return first, second, int(a_stage.step(state, batch).step) == 2


def test_a_loss_that_raises_on_one_process_raises_on_all(two: Crew) -> None:
    for first, second, usable in two.run(raise_in_loss):
        assert "ValueError: " in first
        assert "expected labels in 0 .. 16" in first
        assert first == second
        assert usable


def play_without_rewards() -> TrainState:
    """A step in which no answer of the last process has a reward."""

    def score(rollouts: Rollouts) -> Tensor:
        return torch.where(rollouts.row[:, None] >= 2, torch.nan, even_share(rollouts))

    a_stage = make_online("grpo", score)
    a_stage = together(a_stage) if dist.is_initialized() else a_stage
    return a_stage.step(a_stage.init(random.key(0)), prompt_batch(0, 4))


def test_a_process_without_any_reward_takes_part(two: Crew) -> None:
    alone = play_without_rewards()
    assert alone.metrics["frac_unjudged"] == 0.5
    assert_equal(two.run(play_without_rewards), alone)


# Mistakes of users.


def make_mistakes() -> dict[str, str]:
    """The message of each mistake on this process; a hang would end the test by its timeout."""
    a_stage = together(pretrain(MODEL, optim.sgd(0.1)))
    plain = pretrain(MODEL, optim.sgd(0.1))
    state, batch = a_stage.init(random.key(0)), text_batch(0)
    mine = tree.map(lambda x: x.tensor_split(2)[rank()], batch)  # a DistributedSampler's part
    after = a_stage.step(state, batch)
    few = tree.map(lambda x: x[:1], batch)
    renamed = {**batch, "rows" if rank() else "row": torch.arange(8)}
    sampled: list = []
    parts = make_online("grpo", even_share)
    assert parts.parts is not None
    counting = parts._replace(parts=parts.parts._replace(rollout=lambda *args: sampled.append(args)))
    online = together(counting)
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("rows", "data"))
    other = dist.new_group([0])
    fresh = lambda: together(plain)  # noqa: E731
    of_this_process = plain.init(random.key(rank()))
    return {
        "own part": message_of(lambda: fresh().step(state, mine)),
        "own part later": message_of(lambda: a_stage.step(after, mine)),
        "own order later": message_of(lambda: a_stage.step(after, text_batch(rank()))),
        "own names": message_of(lambda: fresh().step(state, renamed)),
        "own key": message_of(lambda: a_stage.init(random.key(rank()))),
        "own params": message_of(lambda: a_stage.init(random.key(0), MODEL.init(random.key(rank())))),
        "own state": message_of(lambda: fresh().step(of_this_process, batch)),
        "few rows": message_of(lambda: a_stage.step(state, few)),
        "few rows a part": message_of(
            lambda: together(pretrain(MODEL, optim.sgd(0.1), accumulation=8)).step(state, batch)
        ),
        "parts": message_of(
            lambda: together(pretrain(MODEL, optim.sgd(0.1), accumulation=3)).step(state, batch)
        ),
        "few prompts": message_of(lambda: online.step(online.init(random.key(0)), prompt_batch(0, 1))),
        "sampled": str(len(sampled)),
        "own prompts": message_of(lambda: online.step(online.init(random.key(0)), prompt_batch(rank(), 4))),
        "two dimensions": message_of(lambda: data_parallel(plain, mesh)),
        "another group": message_of(lambda: data_parallel(plain, other)),
        "no mesh": message_of(lambda: data_parallel(plain, 2)),
        "usable": str(int(a_stage.step(after, batch).step)),
    }


TOO_FEW = "ValueError: data_parallel: expected at least 2 rows (prompts, groups, or rows of a micro-batch)"
MISTAKES: Mapping[str, str] = {
    "own part": "ValueError: data_parallel: the batch: labels of process 1 differs from that of process 0; give all",
    "own part later": "ValueError: data_parallel: the batches of the processes differ; give every process the same",
    "own order later": "ValueError: data_parallel: the batches of the processes differ; give every process the same",
    "own names": "ValueError: data_parallel: the batch: row of process 1 differs",
    "own key": "ValueError: data_parallel: the initial state: key of process 1 differs from that of process 0",
    "own params": "ValueError: data_parallel: the initial state: params/embedding of process 1 differs",
    "own state": "ValueError: data_parallel: the state: key of process 1 differs",
    "few rows": TOO_FEW,
    "few rows a part": TOO_FEW,
    "parts": "ValueError: accumulate: 8 rows do not divide into 3 parts",
    "few prompts": TOO_FEW,
    "sampled": "0",
    "own prompts": "ValueError: data_parallel: the prompts: prompts of process 1 differs",
    "two dimensions": "ValueError: data_parallel: expected a mesh with one dimension, got 2; give",
    "no mesh": "TypeError: data_parallel: expected a DeviceMesh or a ProcessGroup, got int; write torch.distributed",
    "usable": "2",
}


def test_mistakes_are_refused_in_one_line_on_all_processes(two: Crew) -> None:
    results = two.run(make_mistakes)
    for name, expected in MISTAKES.items():
        for told in (result[name] for result in results):
            assert told.startswith(expected), (name, told)
            assert "\n" not in told
    refused = results[1]["another group"]
    assert "this process is not in the group" in refused
    assert results[0]["another group"] == "no error"


def test_a_process_that_joined_no_others_says_how_to() -> None:
    with pytest.raises(ValueError, match="has not joined others; start it with torchrun, and call torch"):
        data_parallel(pretrain(MODEL, optim.sgd(0.1)), 2)


def square(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """A loss of one number."""
    return (params - batch["x"]).square().sum(), torch.tensor(float(len(batch["x"]))), {}


NUMBERS = {"x": torch.tensor([1.0, 3.0])}


def test_stages_that_cannot_be_combined_are_refused_when_they_are_built() -> None:
    plain = stage(square, optim.sgd(0.1), init=lambda key: random.normal(key, ()))
    shared = data_parallel(plain, ALONE)
    for function in (
        lambda: population(shared, 3),
        lambda: sweep(
            lambda rate: data_parallel(stage(square, optim.sgd(rate)), ALONE), {"rate": [0.1, 0.2]}
        ),
        lambda: unroll(shared, 2),
        lambda: unroll(lambda rate: shared, 1)(shared.init(random.key(0)), [NUMBERS], {"rate": 0.1}),
    ):
        with pytest.raises(ValueError, match=r"computed by several processes together.*give the plain stage"):
            function()
    online = make_online("grpo", even_share)
    for members in (population(plain, 3), population(online, 2), sweep(lambda rate: plain, {"rate": [0.1]})):
        with pytest.raises(ValueError, match="axis of members in the place of rows; run its members on one"):
            data_parallel(members, ALONE)
    with pytest.raises(ValueError, match="computed by several processes already; give the plain one"):
        data_parallel(shared, ALONE)
    with pytest.raises(ValueError, match=r"the step of this online stage is compiled.*compile afterwards"):
        data_parallel(online._replace(step=jit(online.step, donate=True, regions=True)), ALONE)


def differentiate_steps() -> list[str]:
    """Messages of what transforms a step of two processes."""
    a_stage = together(stage(square, optim.sgd(0.1)))
    state = a_stage.init(random.key(0), torch.tensor(0.0))
    step = lambda params: a_stage.step(state._replace(params=params), NUMBERS).params  # noqa: E731
    x = torch.tensor(2.0)
    step(x)  # the first step is checked
    return [
        message_of(lambda: torch.func.grad(step)(x)),
        message_of(lambda: torch.func.vmap(step)(x[None])),
        message_of(lambda: torch.func.jvp(step, (x,), (x,))),
        message_of(lambda: step(x.clone().requires_grad_()).backward()),
        message_of(lambda: step(x)),
    ]


def test_a_step_is_neither_vmapped_nor_differentiated(two: Crew) -> None:
    """Autograd would return a gradient without the other processes' rows."""
    for *refused, plain in two.run(differentiate_steps):
        assert plain == "no error"
        for text in refused:
            assert text.startswith(
                "RuntimeError: data_parallel: a step that is computed by several processes cannot"
            )


def compare_tools() -> dict[str, Any]:
    """Results of functions that take a stage, a loss or a state."""
    plain, online = pretrain(MODEL, optim.sgd(0.1)), make_online("grpo", even_share)
    a_stage, shared = together(plain), together(online)
    state, start = plain.init(random.key(0)), online.init(random.key(0))
    assert online.parts is not None
    assert shared.parts is not None
    rollouts = online.parts.rollout(start.params, prompt_batch(0, 3), random.key(1))
    rewards = even_share(rollouts)
    faster = together(pretrain(MODEL, optim.sgd(0.2)))
    batches = [text_batch(0), text_batch(1)]
    return {
        "branch": branch(a_stage, faster, state, batches).distances,
        "branch alone": branch(plain, pretrain(MODEL, optim.sgd(0.2)), state, batches).distances,
        "examples": examples_of(shared, start, rollouts, rewards),
        "examples alone": examples_of(online, start, rollouts, rewards),
        "rewards": shared.parts.score(rollouts),
        "rewards alone": rewards,
    }


def test_tools_take_a_data_parallel_stage(two: Crew) -> None:
    plain = pretrain(MODEL, optim.sgd(0.1))
    assert loss_of(data_parallel(plain, ALONE)) is loss_of(plain)
    for results in two.run(compare_tools):
        for name in ("branch", "examples", "rewards"):
            assert_close(results[name], results[f"{name} alone"], rtol=1e-5)


def test_the_fingerprint_does_not_know_the_number_of_processes() -> None:
    plain, online = pretrain(MODEL, optim.adam(1e-3)), make_online("grpo", even_share)
    for a_stage in (plain, online):
        described = {size: fingerprint(data_parallel(a_stage, Group(0, size, None))) for size in (1, 2, 16)}
        assert all(one == fingerprint(a_stage) for one in described.values())


def test_shapes_of_a_state_need_no_memory() -> None:
    state = data_parallel(pretrain(MODEL, optim.adam(1e-3)), ALONE).init(random.key(0, device="meta"))
    assert all(x.is_meta for x in tree.leaves(state.params))


def stop_early() -> tuple[str, int]:
    """Process 0 takes one step more than process 1, in a group whose wait ends after two seconds."""
    group = dist.new_group([0, 1], timeout=timedelta(seconds=2))
    a_stage = data_parallel(pretrain(MODEL, optim.sgd(0.1)), group)
    state = a_stage.step(a_stage.init(random.key(0)), text_batch(0))
    if rank() == LAST:
        return "stopped", int(state.step)
    return message_of(lambda: a_stage.step(state, text_batch(1))), int(state.step)


def end_in_a_step(seconds: float) -> None:
    """Process 1 ends while process 0 waits for it."""
    a_stage = together(pretrain(MODEL, optim.sgd(0.1)))
    state = a_stage.step(a_stage.init(random.key(0)), text_batch(0))
    if rank() == LAST:
        time.sleep(seconds)
        os._exit(9)
    a_stage.step(state, text_batch(1))


def test_a_wait_ends_with_a_message_about_what_was_awaited(two: Crew) -> None:
    """Loaders of different lengths hang at the end of an epoch elsewhere; a pipe has one length everywhere."""
    expected = (
        "RuntimeError: data_parallel: the comparison of the batches failed: one of the 2 processes ended, raised "
        "an error or did not take this step; see its own message"
    )
    waited, stopped = two.run(stop_early)
    assert stopped == ("stopped", 1)
    assert waited[0].startswith(expected)
    with crew(2) as members:
        begin = time.monotonic()
        with pytest.raises(AssertionError) as ended:
            members.run(end_in_a_step, 0.5)
        assert time.monotonic() - begin < 10
    assert expected in str(ended.value)
    assert "process 1:\nit ended" in str(ended.value)


# Compilers.


def fit_line(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """A regression in which a row's target depends on its number in the whole batch."""
    error = batch["x"] @ params["w"] + 0.01 * batch["batch_position"] - batch["y"]
    return error.square().sum(), torch.tensor(float(len(error))), {}


@mock.patch.object(threefry, "ROTATIONS", ((13,), (17,)))  # 5 rounds, which compile faster than 20
def compile_steps() -> dict[str, Any]:
    """States of eager and compiled steps, alone and together, by the same compiled code."""
    plain = stage(fit_line, optim.sgd(0.1), init=lambda key: {"w": random.normal(key, (3,))})
    shared = together(plain)
    start, batch, other = plain.init(random.key(0)), regression_batch(0), regression_batch(1)
    alone, eager = plain.step(start, batch), shared.step(start, batch)
    compiled = jit(plain.step, backend="aot_eager")
    both = together(plain._replace(step=compiled))
    donated = jit(shared.step, donate=True, backend="aot_eager")(tree.clone(start), batch)
    pairs = {"donated": (donated, eager)}
    for turn in range(
        2
    ):  # the group is no argument, so that code that was compiled without it must not be used
        pairs[f"alone {turn}"] = compiled(start, batch), alone
        pairs[f"both {turn}"] = both.step(start, batch), eager
    rows = jit(by_rows(lambda w, x: w * x), backend="aot_eager")
    with within(group_of("test", init_device_mesh("cpu", (2,)))):
        gathered = rows(torch.tensor(2.0), torch.arange(3.0))
    own = batch if rank() == LAST else other
    skipped = both.step(start, own)
    pairs["alone, each its own batch"] = compiled(start, own), plain.step(start, own)
    return {"pairs": pairs, "rows": gathered, "start": start, "skipped": skipped}


def test_compiled_steps_equal_eager_ones_alone_and_together(two: Crew) -> None:
    for results in two.run(compile_steps):
        for name, (one, other) in results["pairs"].items():
            assert same_bits(one.step, other.step), name
            assert_close(one, other, rtol=1e-5)
        assert results["rows"].tolist() == [0.0, 2.0, 4.0]
        skipped, start = results["skipped"], results["start"]
        assert same_bits((skipped.params, skipped.opt_state), (start.params, start.opt_state))
        assert skipped.metrics["nonfinite_leaf"] == 1  # the loss, after one leaf
        assert skipped.metrics["loss"].isnan()


def compile_regions() -> tuple[TrainState, TrainState]:
    """Two steps of a model, by donating regions and eager."""
    a_stage = together(pretrain(MODEL, optim.adam(1e-2)))
    state = a_stage.init(random.key(0))
    step = jit(a_stage.step, donate=True, regions=True, backend="aot_eager")
    compiled = step(step(tree.clone(state), text_batch(0)), text_batch(1))
    return compiled, a_stage.step(a_stage.step(state, text_batch(0)), text_batch(1))


def test_a_step_compiled_by_regions_equals_the_eager_one(two: Crew) -> None:
    results = two.run(compile_regions)
    assert same_bits(results[0][0], results[1][0])
    for compiled, eager in results:
        assert_close(compiled, eager, rtol=1e-5)
