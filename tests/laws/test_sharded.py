"""The laws of a state that is cut into rows (`stages.sharded`): every row of the stages equals one process."""

from __future__ import annotations

import functools
import time
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.adapt.qlora import quantize_layers
from pure.generation.sampling import Sampling
from pure.nn.context_parallel import context_parallel
from pure.nn.tensor_parallel import tensor_parallel
from pure.nn.transformer import transformer
from pure.parallel import row_collectives, rows
from pure.parallel.group import group_of
from pure.parallel.layers import Plan, gather_with_gradient
from pure.parallel.rows import gather
from pure.transform.cosines import cosines
from pure.transform.dp_sgd import clipped
from pure.transform.jit import jit
from pure.transform.memory import peak
from pure.transform.noise_scale import noise_scale
from pure.transform.remat import remat
from pure.types import GradientTransformation, Tree
from stages.checkpoint.fingerprint import describe
from stages.data_parallel import data_parallel
from stages.dpo import dpo
from stages.grpo import grpo
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.rollout import Rollouts
from stages.sft import sft
from stages.sharded import sharded
from stages.stage import Stage, loss_of, stage
from tests.crew import Crew
from tests.laws.test_processes import assert_equal, distance
from tests.laws.test_stages import (
    BY_NAME,
    STAGES,
    make_pretrain,
    pair_batch,
    regression,
    regression_batch,
    run_steps,
    same_bits,
    small,
    text_batch,
)

pytestmark = pytest.mark.processes

NAMES = tuple(row.name for row in STAGES if row.name != "own-optax")
STEPS = 2
FEW = ("pretrain-dropout", "pretrain-muon-ema", "pretrain-global-optimizer", "ppo")


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


@functools.cache
def make(name: str) -> Stage:
    """A row's stage; its reference is drawn once."""
    return BY_NAME[name].make()


@functools.cache
def batches_of(name: str, count: int | None) -> list[Tree]:
    """The first rows of each batch."""
    return [tree.map(lambda x: x[:count], BY_NAME[name].batch(i)) for i in range(STEPS)]


def train(a_stage: Stage, name: str, count: int | None = None) -> Tree:
    """The state after some steps, of the first rows of each batch."""
    return run_steps(a_stage, batches_of(name, count), a_stage.init(random.key(0)))


@functools.cache
def train_alone(name: str, count: int | None) -> Tree:
    """That of one process."""
    return train(make(name), name, count)


def state_bytes(state: Tree) -> tuple[int, int]:
    """Bytes of what this process holds of a state, and of the whole state."""
    trained = (state.params, state.opt_state, state.extra)
    return tree.nbytes(rows.local(trained)), tree.nbytes(trained)


def train_sharded(names: tuple[str, ...], count: int | None = None, layers: bool = False) -> dict[str, Tree]:
    """The whole states after some steps, of each stage."""
    stages = {name: sharded(make(name), mesh(), layers=layers) for name in names}
    return {name: gather(train(a_stage, name, count)) for name, a_stage in stages.items()}


def assert_rows_equal_whole(results: list[dict[str, Tree]], count: int | None = None) -> None:
    for name in results[0]:
        assert_equal([result[name] for result in results], train_alone(name, count))


def test_every_stage_in_rows_on_two_processes_equals_one(two: Crew) -> None:
    """With params gathered once a step; gathered layer by layer, the numbers have the same bits."""
    results = two.run(train_sharded, NAMES)
    assert_rows_equal_whole(results)
    by_layer = two.run(train_sharded, NAMES, None, True)
    assert all(same_bits(by_layer[0][name], results[0][name]) for name in NAMES)
    assert all(same_bits(by_layer[1][name], results[0][name]) for name in NAMES)


def test_uneven_rows_on_four_processes_equal_one(four: Crew) -> None:
    """Leaves with fewer rows than processes (a head of one row), and batches of 7 rows."""
    assert_rows_equal_whole(four.run(train_sharded, FEW))
    names = ("pretrain-dropout", "reward")
    assert_rows_equal_whole(four.run(train_sharded, names, 7, True), 7)


def check_initial_states(names: tuple[str, ...]) -> None:
    """Drawn by rows, cut from given params, or given as rows: the bits of the plain stage's state."""
    for name in names:
        plain = make(name)
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
    a_stage = sharded(make(name), mesh())
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
        assert max(members.run(check_bytes, optimizer)) < 1 / members.size + 0.01


GRADIENTS = {
    "accumulation": {"accumulation": 4},
    "noise_scale": {"gradient": noise_scale(parts=4)},
    "cosines": {"gradient": cosines(parts=2)},
    "clipped": {"gradient": clipped(0.1, noise=0.5)},
    "float16": {"compute": torch.float16, "loss_scale": 2.0**10},
    "overflow": {"compute": torch.float16, "loss_scale": 2.0**40},
    "bfloat16": {"compute": torch.bfloat16},
}


ADDED = ("accumulation", "float16", "overflow", "bfloat16")
"""Those that only add up gradients, which rows of layers can."""
HALF = ("float16", "overflow", "bfloat16")


def pretrain_with(name: str) -> Stage:
    options = GRADIENTS[name]
    return make_pretrain(**options)() if "accumulation" not in options else make_pretrain()(**options)


def train_gradients(names: tuple[str, ...], layers: bool) -> dict[str, Tree]:
    states = {}
    for name in names:
        a_stage = sharded(pretrain_with(name), mesh(), layers=layers)
        states[name] = gather(
            run_steps(a_stage, [text_batch(i) for i in range(STEPS)], a_stage.init(random.key(0)))
        )
    return states


def test_every_gradient_in_rows_equals_one_process(two: Crew) -> None:
    results = two.run(train_gradients, tuple(GRADIENTS), False)
    by_layer = two.run(train_gradients, ADDED, True)
    for name in GRADIENTS:
        a_stage = pretrain_with(name)
        alone = run_steps(a_stage, [text_batch(i) for i in range(STEPS)], a_stage.init(random.key(0)))
        states = [result[name] for result in results]
        if name in HALF:  # rounded at other places; the scale and what was skipped are the same
            states += [result[name] for result in by_layer]
            assert all(distance(state.params, alone.params) < 1e-3 for state in states)
            assert all(same_bits(state.extra, alone.extra) for state in states)
        else:
            assert_equal(states, alone)
    assert distance(by_layer[0]["accumulation"].params, results[0]["accumulation"].params) < 1e-6


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


def frozen_stage(kind: str, cut: bool) -> Stage:
    """A stage with frozen params, which are whole or cut into rows."""
    plain = transformer(small())
    base = plain.init(random.key(77))
    frozen = quantize_layers(base) if kind == "qlora" else base
    frozen = rows.cut(frozen, mesh()) if cut else frozen
    if kind == "reference":
        return dpo(plain, optim.adam(1e-2), reference=frozen, chunk=3)
    options = {"use_dora": True, "dropout": 0.1} if kind == "dora" else {}
    return sft(lora(plain, frozen, rank=2, **options), optim.adam(1e-2), chunk=4)


FROZEN = {"lora": False, "dora": True, "qlora": True, "reference": True}
"""What is frozen -> its layers are gathered one by one."""


def train_frozen(kind: str, cut: bool) -> Tree:
    """Params after two steps."""
    batches = [pair_batch(i) if kind == "reference" else text_batch(i) for i in range(2)]
    a_stage = frozen_stage(kind, cut)
    a_stage = sharded(a_stage, mesh(), layers=FROZEN[kind]) if cut else a_stage
    return gather(run_steps(a_stage, batches, a_stage.init(random.key(0)))).params


def check_frozen(alone: dict[str, Tree]) -> None:
    """A base or a reference that is cut itself is gathered layer by layer."""
    for kind, params in alone.items():
        assert distance(train_frozen(kind, cut=True), params) < 1e-6, kind


def test_a_frozen_base_or_reference_may_be_cut(two: Crew) -> None:
    two.run(check_frozen, {kind: train_frozen(kind, cut=False) for kind in FROZEN})


def fail_on_one(moment: str, wrap: str) -> tuple[str, bool]:
    """The message on this process if process 1 fails with a cut base; the numbers of the next step are right."""
    model = transformer(small())
    base = model.init(random.key(77))
    failing = [moment]

    def made(frozen: Tree) -> Stage:
        adapted = lora(model, frozen, rank=2)
        inner = loss_of(sft(adapted, optim.adam(1e-2), chunk=4))

        def loss(params: Tree, batch: Tree, key: torch.Tensor | None) -> tuple:
            if failing == ["before"] and dist.get_rank() == 1:
                raise ZeroDivisionError("on one process")
            total, count, metrics = inner(params, batch, key)
            if failing == ["after"] and dist.get_rank() == 1:
                raise ZeroDivisionError("on one process")
            if failing == ["backward"] and dist.get_rank() == 1:
                total.register_hook(lambda grad: 1 / 0)
            return total, count, metrics

        return stage(loss, optim.adam(1e-2), init=adapted.init, metrics=("tokens",))

    together = sharded if wrap == "sharded" else data_parallel
    a_stage = together(made(rows.cut(base, mesh())), mesh())
    state = a_stage.init(random.key(0))
    try:
        a_stage.step(state, text_batch(0))
        text = "no error"
    except ZeroDivisionError as error:
        text = str(error)
    failing.clear()
    alone = made(base)
    expected = alone.step(alone.init(random.key(0)), text_batch(0))
    return text, distance(gather(a_stage.step(state, text_batch(0)).params), expected.params) < 1e-6


@pytest.mark.parametrize("wrap", ["sharded", "data_parallel"])
def test_an_error_of_one_process_with_a_cut_base_is_raised_on_all(two: Crew, wrap: str) -> None:
    """All others wait in a gathering of the base."""
    start = time.monotonic()
    for moment in ("before", "after"):
        assert two.run(fail_on_one, moment, wrap) == [("on one process", True)] * 2
    assert two.run(fail_on_one, "backward", wrap) == [("division by zero", True)] * 2
    assert time.monotonic() - start < 30  # far below the timeout of the group


def deep() -> Stage:
    """A stage of ten layers whose activations weigh little."""
    config = small(num_hidden_layers=10, hidden_size=64, intermediate_size=128, vocab_size=17)
    return pretrain(transformer(config), optim.sgd(0.1))


def measure_step(layers: bool) -> tuple[int, int]:
    """Peak bytes that a step allocates, and the number of gatherings."""
    a_stage, batch = sharded(deep(), mesh(), layers=layers), tree.map(lambda x: x[:2], text_batch(0))
    state = a_stage.init(random.key(0))
    with mock.patch.object(row_collectives, "_all_gather", wraps=row_collectives._all_gather) as gatherings:
        a_stage.step(state, batch)
    bytes_at_once = peak(a_stage.step, state, batch)
    return bytes_at_once, gatherings.call_count


def test_one_layer_is_whole_at_a_time(two: Crew) -> None:
    """Gathered: leaves outside layers once, each layer once forward and once backward."""
    once, by_layer = two.run(measure_step, False)[0], two.run(measure_step, True)[0]
    assert (once[1], by_layer[1]) == (1, 1 + 2 * 10)
    whole = tree.nbytes(deep().init(random.key(0)).params)
    assert once[0] > 1.9 * whole  # params and gradients
    assert by_layer[0] < 1.35 * whole  # rows of the gradient and of new params, and two whole layers


def own_layers(params: Tree, batch: Tree, key: torch.Tensor) -> tuple:
    """A user's own loss of a model with layers, which knows of no rows."""
    x = batch["x"]
    for layer in params["layers"]:
        x = torch.tanh(x @ layer["w"])
    return x.square().sum(), torch.tensor(float(len(x))), {}


def remat_whole(params: Tree, batch: Tree, key: torch.Tensor) -> tuple:
    """A loss that recomputes the whole model, whose layers are gathered inside."""
    model = transformer(small())
    logits = remat(model.forward)(params, batch["tokens"])
    return logits.square().sum(), torch.tensor(float(len(logits))), {}


def check_layers() -> None:
    """A model that cannot gather by layer is refused by name; one that is recomputed whole can."""
    params = {"layers": [{"w": torch.eye(3)} for _ in range(2)]}
    plain = stage(own_layers, optim.sgd(0.1))
    a_stage = sharded(plain, mesh(), layers=True)
    state = a_stage.init(random.key(0), params)
    with pytest.raises(ValueError, match=r"sharded\(layers=True\).*use layers=False.*'Rows'"):
        a_stage.step(state, {"x": torch.ones(4, 3)})
    assert sharded(plain, mesh()).step(state, {"x": torch.ones(4, 3)}).step == 1
    noisy = sharded(pretrain_with("noise_scale"), mesh(), layers=True)
    with pytest.raises(ValueError, match=r"sharded\(layers=True\).*gradient=.*use layers=False"):
        noisy.step(noisy.init(random.key(0)), text_batch(0))
    plain = stage(remat_whole, optim.sgd(0.01), init=transformer(small()).init)
    alone = plain.step(plain.init(random.key(0)), text_batch(0))
    a_stage = sharded(plain, mesh(), layers=True)
    assert (
        distance(gather(a_stage.step(a_stage.init(random.key(0)), text_batch(0)).params), alone.params) < 1e-6
    )


def check_transforms() -> None:
    """The gathering has the gradient of the sum, under autograd and torch.func; vmap is refused."""
    group = group_of("test", mesh())
    plan = Plan(group, (5, None), (torch.float32, torch.float32))
    whole, scalar = torch.arange(5.0), torch.tensor(2.0)
    own = whole[slice(*row_collectives.own_rows(5, group))]
    weights = torch.arange(5.0) * (group.rank + 1)

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = gather_with_gradient(plan, [x, y])
        return (weights * y * x.square()).sum()

    total = 3 * torch.arange(5.0)  # the weights of both processes
    expected = (2 * total * scalar * whole)[slice(*row_collectives.own_rows(5, group))]
    leaves = [x.clone().requires_grad_() for x in (own, scalar)]
    by_autograd = torch.autograd.grad(function(*leaves), leaves)
    for gradient in (by_autograd, torch.func.grad(function, (0, 1))(own, scalar)):
        torch.testing.assert_close(gradient[0], expected)
        torch.testing.assert_close(gradient[1], (total * whole.square()).sum())
    with pytest.raises(RuntimeError, match="cannot be vmapped"):
        torch.func.vmap(torch.func.grad(function), (0, None))(own.expand(2, -1), scalar)


def test_layers_and_their_refusals(two: Crew) -> None:
    two.run(check_layers)
    two.run(check_transforms)


def sum_of_tokens(rollouts: Rollouts) -> torch.Tensor:
    return (rollouts.tokens.sum(1, keepdim=True) % 7).float()


def check_sampling() -> None:
    """Completions that are sampled from rows; a fingerprint knows nothing of processes."""
    prompts = {
        "prompts": torch.arange(12).view(4, 3) % 9 + 7,
        "lengths": torch.tensor([3, 2, 3, 1]),
        "row": torch.arange(4),
    }
    options = {"score": sum_of_tokens, "samples": 2, "sampling": Sampling(max_new_tokens=3)}
    for build, more in ((grpo, {"iterations": 2}), (ppo, {"epochs": 1, "minibatches": 2})):
        plain = build(transformer(small()), optim.adam(1e-2), **options, **more)
        alone = run_steps(plain, [prompts] * STEPS, plain.init(random.key(0)))
        for layers in (False, True):
            a_stage = sharded(plain, mesh(), layers=layers)
            state = gather(run_steps(a_stage, [prompts] * STEPS, a_stage.init(random.key(0))))
            assert distance(state.params, alone.params) < 1e-6
            torch.testing.assert_close(state.metrics["reward"], alone.metrics["reward"])
            assert describe(a_stage) == describe(plain)


def test_completions_sampled_from_rows_are_those_of_one_process(two: Crew) -> None:
    two.run(check_sampling)


def check_two_dimensions(alone: dict[str, torch.Tensor]) -> None:
    """Rows over one dimension of a mesh, and the model's parts or places over the other."""
    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "other"))
    model = transformer(small(num_key_value_heads=2, vocab_size=18))
    for split in (tensor_parallel, context_parallel):
        for layers in (False, True):
            a_stage = pretrain(split(model, both["other"]), optim.adam(1e-2))
            a_stage = sharded(a_stage, both["data"], layers=layers)
            state = run_steps(a_stage, [text_batch(i) for i in range(STEPS)], a_stage.init(random.key(0)))
            for name in ("loss", "grad_norm"):
                torch.testing.assert_close(state.metrics[name], alone[name], rtol=1e-6, atol=1e-6)


def test_rows_and_parts_of_a_model_on_a_mesh_of_two_dimensions(four: Crew) -> None:
    plain = pretrain(transformer(small(num_key_value_heads=2, vocab_size=18)), optim.adam(1e-2))
    alone = run_steps(plain, [text_batch(i) for i in range(STEPS)], plain.init(random.key(0)))
    four.run(check_two_dimensions, alone.metrics)
