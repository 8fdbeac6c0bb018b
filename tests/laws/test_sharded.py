"""The laws of a state that is cut into rows (`stages.sharded`): every row of the stages equals one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.parallel import rows
from pure.parallel.rows import gather
from pure.transform.cosines import cosines
from pure.transform.dp_sgd import clipped
from pure.transform.jit import jit
from pure.transform.noise_scale import noise_scale
from pure.types import GradientTransformation, Tree
from stages.pretrain import pretrain
from stages.sharded import sharded
from stages.stage import Stage, stage
from tests.crew import Crew, crew
from tests.laws.test_processes import assert_equal, distance
from tests.laws.test_stages import (
    BY_NAME,
    STAGES,
    make_pretrain,
    regression,
    regression_batch,
    run_steps,
    same_bits,
    small,
    text_batch,
)

NAMES = tuple(row.name for row in STAGES if row.name != "own-optax")
FEW = ("pretrain-dropout", "pretrain-muon-ema", "pretrain-global-optimizer", "ppo")


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    with crew(2) as members:
        yield members


@pytest.fixture(scope="module")
def four() -> Iterator[Crew]:
    with crew(4) as members:
        yield members


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def train(a_stage: Stage, name: str, count: int | None = None) -> Tree:
    """The state after three steps, of the first rows of each batch."""
    batches = [tree.map(lambda x: x[:count], BY_NAME[name].batch(i)) for i in range(3)]
    return run_steps(a_stage, batches, a_stage.init(random.key(0)))


def state_bytes(state: Tree) -> tuple[int, int]:
    """Bytes of what this process holds of a state, and of the whole state."""
    trained = (state.params, state.opt_state, state.extra)
    return tree.nbytes(rows.local(trained)), tree.nbytes(trained)


def train_sharded(names: tuple[str, ...], count: int | None = None, **options: Any) -> dict[str, Tree]:
    """The whole states after three steps, of each stage."""
    stages = {name: sharded(BY_NAME[name].make(**options), mesh()) for name in names}
    return {name: gather(train(a_stage, name, count)) for name, a_stage in stages.items()}


def assert_rows_equal_whole(results: list[dict[str, Tree]], count: int | None = None) -> None:
    for name in results[0]:
        alone = train(BY_NAME[name].make(), name, count)
        assert_equal([result[name] for result in results], alone)


def test_every_stage_in_rows_on_two_processes_equals_one(two: Crew) -> None:
    assert_rows_equal_whole(two.run(train_sharded, NAMES))


def test_uneven_rows_on_four_processes_equal_one(four: Crew) -> None:
    """Leaves with fewer rows than processes (a head of one row), and batches of 7 rows."""
    assert_rows_equal_whole(four.run(train_sharded, FEW))
    names = ("pretrain-dropout", "reward")
    assert_rows_equal_whole(four.run(train_sharded, names, 7), 7)


def check_initial_states(names: tuple[str, ...]) -> None:
    """Drawn by rows, cut from given params, or given as rows: the bits of the plain stage's state."""
    for name in names:
        plain = BY_NAME[name].make()
        whole = plain.init(random.key(3))
        cut_stage = sharded(plain, mesh())
        drawn = cut_stage.init(random.key(3))
        assert same_bits(gather(drawn), whole), name
        assert tree.paths(drawn) == tree.paths(whole)
        for part in (drawn.params, drawn.opt_state, drawn.extra):
            assert all(rows.is_cut(x) == bool(x.ndim) for x in tree.leaves(part)), name
        assert not rows.is_cut((drawn.step, drawn.key, drawn.metrics))
        given = plain.init(random.key(4)).params
        for start in (given, rows.cut(given, mesh())):
            assert same_bits(gather(cut_stage.init(random.key(3), start)), plain.init(random.key(3), given))


def test_initial_rows_are_those_of_the_whole_state(two: Crew) -> None:
    names = ("own", "pretrain-muon-ema", "reward", "kto", "ppo", "sft-dora-dropout", "pretrain-untied-qk")
    two.run(check_initial_states, names)


def check_resumed(name: str) -> None:
    """Gathered and cut again, as a checkpoint does, a run goes on with the same bits."""
    a_stage = sharded(BY_NAME[name].make(), mesh())
    batches = [BY_NAME[name].batch(i) for i in range(4)]
    whole_run = run_steps(a_stage, batches, a_stage.init(random.key(0)))
    half = gather(run_steps(a_stage, batches[:2], a_stage.init(random.key(0))))
    trained = {part: rows.cut(getattr(half, part), mesh()) for part in ("params", "opt_state", "extra")}
    resumed = run_steps(a_stage, batches[2:], half._replace(**trained))
    assert same_bits(gather(resumed), gather(whole_run))


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(two: Crew) -> None:
    two.run(check_resumed, "pretrain-muon-ema")


def large(optimizer: str = "adamw") -> Stage:
    """A stage whose leaves [] weigh nothing."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 256, "num_attention_heads": 4}
    return make_pretrain(optimizer, config=sizes, ema=0.9)()


def check_bytes(optimizer: str) -> float:
    a_stage = sharded(large(optimizer), mesh())
    state = a_stage.init(random.key(0))
    own, whole = state_bytes(a_stage.step(state, text_batch(0)))
    return own / whole


def test_a_process_holds_its_share_of_the_state(two: Crew, four: Crew) -> None:
    for members, optimizer in ((two, "adamw"), (four, "adamw"), (two, "muon")):
        size = len(members.processes)
        assert max(members.run(check_bytes, optimizer)) < 1 / size + 0.01


GRADIENTS = {
    "accumulation": {"accumulation": 4},
    "noise_scale": {"gradient": noise_scale(parts=4)},
    "cosines": {"gradient": cosines(parts=2)},
    "clipped": {"gradient": clipped(0.1, noise=0.5)},
    "float16": {"compute": torch.float16, "loss_scale": 2.0**10},
    "overflow": {"compute": torch.float16, "loss_scale": 2.0**40},
}


def pretrain_with(name: str) -> Stage:
    options = GRADIENTS[name]
    return make_pretrain(**options)() if "accumulation" not in options else make_pretrain()(**options)


def train_gradients() -> dict[str, Tree]:
    states = {}
    for name in GRADIENTS:
        a_stage = sharded(pretrain_with(name), mesh())
        states[name] = gather(
            run_steps(a_stage, [text_batch(i) for i in range(3)], a_stage.init(random.key(0)))
        )
    return states


def test_every_gradient_in_rows_equals_one_process(two: Crew) -> None:
    results = two.run(train_gradients)
    for name in GRADIENTS:
        a_stage = pretrain_with(name)
        alone = run_steps(a_stage, [text_batch(i) for i in range(3)], a_stage.init(random.key(0)))
        states = [result[name] for result in results]
        if name not in ("float16", "overflow"):
            assert_equal(states, alone)
            continue
        assert same_bits(*states)  # float16 rounds 1e-3; the scale and what was skipped are the same
        assert distance(states[0].params, alone.params) < 1e-3
        assert same_bits(states[0].extra, alone.extra)


def two_leaves(params: Tree, batch: Tree, key: torch.Tensor) -> tuple:
    """A loss whose second leaf alone reads the batch."""
    total = params["a"].square().sum() + (params["b"] * batch["x"][:, None]).sum()
    return total, torch.tensor(float(len(batch["x"]))), {}


def check_not_finite() -> None:
    """A gradient that is not finite on one process: the step is skipped on all, which name the same leaf."""
    params = {"a": torch.ones(3), "b": torch.ones(1)}
    a_stage = sharded(stage(two_leaves, optim.adam(0.1)), mesh())
    state = a_stage.init(random.key(0), params)
    after = a_stage.step(state, {"x": torch.tensor([1.0, 2.0, 3.0, torch.inf])})
    assert after.metrics["nonfinite_leaf"] == 1
    assert after.step == 1
    assert same_bits(gather((after.params, after.opt_state)), gather((state.params, state.opt_state)))


def test_a_step_that_is_not_finite_is_skipped_on_all(two: Crew) -> None:
    two.run(check_not_finite)


def make_with(optimizer: GradientTransformation) -> Stage:
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    return stage(regression, optimizer, init=init, metrics=("error",), ema=0.9)


def check_donated() -> None:
    """Compiled by regions and donated: equal numbers, in the same storage."""
    for optimizer in (optim.adam(0.1), optim.lamb(0.1), optim.MultiSteps(optim.sgd(0.1), 2)):
        a_stage = sharded(make_with(optimizer), mesh())
        compiled = jit(a_stage.step, donate=True, regions=True, backend="aot_eager")
        state, eager = (a_stage.init(random.key(0)) for _ in range(2))
        places = [x.data_ptr() for x in tree.leaves(rows.local(state))]
        for i in range(3):
            eager = a_stage.step(eager, regression_batch(i))
            assert compiled(state, regression_batch(i)) is state
        assert [x.data_ptr() for x in tree.leaves(rows.local(state))] == places
        assert distance(gather(state.params), gather(eager.params)) < 1e-5
        assert distance(gather(state.extra["ema"]), gather(eager.extra["ema"])) < 1e-5
    with pytest.raises(ValueError, match=r"cut into rows over processes.*regions=True"):
        jit(a_stage.step, donate=True, backend="aot_eager")(state, regression_batch(0))


def test_a_donating_step_writes_into_the_rows(two: Crew) -> None:
    two.run(check_donated)


def check_refused() -> None:
    plain = pretrain(transformer(small()), optim.adam(0.1))
    rank, cut_stage = dist.get_rank(), sharded(plain, mesh())
    with pytest.raises(ValueError, match="key of process 1 differs"):
        cut_stage.init(random.key(rank))
    params = plain.init(random.key(0)).params
    changed = {**params, "embedding": params["embedding"] + rank}
    with pytest.raises(ValueError, match="params/embedding of process 1 differs"):
        cut_stage.init(random.key(0), changed)
    state = cut_stage.init(random.key(0))
    with pytest.raises(
        ValueError, match=r"the state is cut into rows over 2 processes.*sharded\(stage, mesh\)"
    ):
        plain.step(state, text_batch(0))
    with pytest.raises(ValueError, match="made by hand"):
        sharded(Stage(plain.init, plain.step), mesh())
    with pytest.raises(ValueError, match="is computed by several processes already"):
        sharded(cut_stage, mesh())


def test_what_cannot_work_is_refused(two: Crew) -> None:
    two.run(check_refused)
