"""The laws of lowering: what is a row elsewhere (a stage, an optimizer, a loss) is a JAX function too.

A new stage, optimizer or loss inherits them from its own table. Programs are compiled by XLA without its
expensive passes. Adam's first updates divide a gradient by its own size, which multiplies its rounding; most rows
of stages take SGD in its place, so that gradients and parameters are compared to 1e-6.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.interop.jax.arrays import to_jax
from pure.interop.jax.lower import lower
from pure.nn.transformer import transformer
from pure.transform.grad import grad, value_and_grad
from pure.transform.per_sample import per_sample_grad
from pure.types import Tree
from stages.dpo import dpo
from stages.pretrain import pretrain
from tests.laws import test_stages
from tests.laws.test_losses import LOSSES
from tests.laws.test_optimizers import TABLE, extra_arguments, random_arrays, tensors
from tests.laws.test_stages import STAGES, Row, small, text_batch, with_momentum

pytestmark = pytest.mark.usefixtures("quick_xla")
OWN_OPTIMIZER = ("own", "own-optax", "pretrain", "pretrain-muon-ema", "pretrain-lion-chunk-remat")
"""Rows of stages that keep their optimizer."""
BATCH = text_batch(0)


def narrow(values: Tree) -> Tree:
    """A tree of tensors for JAX, whose integers have 32 bits."""
    return to_jax(tree.map(lambda x: x.int() if x.dtype == torch.int64 else x, values))


def run(function: Callable, *args: Tree) -> Tree:
    """Compiles a function of JAX and calls it."""
    return jax.jit(function)(*args)


def lowered(function: Callable, *args: Tree) -> Tree:
    """The result of a function of torch, computed by JAX."""
    return run(lower(function, *args), *map(narrow, args))


def assert_near(ours: Tree, theirs: Tree, tolerance: float, atol: float = 0.0) -> None:
    """Each leaf within `tolerance` of its largest number (and `atol`), at the same paths."""
    assert tree.paths(ours) == tree.paths(theirs)
    for path, x, y in zip(tree.paths(ours), tree.leaves(ours), tree.leaves(theirs), strict=True):
        x, y = (np.asarray(v.float() if isinstance(v, Tensor) else v.astype(jnp.float32)) for v in (x, y))
        assert x.shape == y.shape, path
        size = np.abs(x[np.isfinite(x)]).max(initial=0.0)
        with np.errstate(invalid="ignore"):  # inf - inf, where both are infinite
            apart = np.abs(x - y)
        near = (x == y) | (np.isnan(x) & np.isnan(y)) | (apart <= tolerance * size + atol)
        assert near.all(), f"{path}: {apart.max()} apart, of {size}"


@pytest.fixture(scope="module")
def prepare() -> Callable[[str], tuple]:
    """Returns a function of a row's name: its stage, its state after one step, and its step compiled by JAX."""

    @functools.cache
    def prepare(name: str) -> tuple:
        row = test_stages.BY_NAME[name]
        with pytest.MonkeyPatch.context() as patch:
            test_stages.use_one_layer(patch)
            if name not in OWN_OPTIMIZER:
                patch.setattr(optim, "adam", with_momentum)
                patch.setattr(optim, "adamw", with_momentum)
            made = row.make()
        state, batch = made.step(made.init(random.key(0)), row.batch(0)), row.batch(1)
        step = jax.jit(lower(made.step, state, batch)).lower(narrow(state), narrow(batch))
        return made, state, step.compile()

    return prepare


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)
def test_the_step_of_every_stage(row: Row, prepare: Callable) -> None:
    """The second step, whose moments and schedule are no longer 0.

    Metrics may be differences of larger numbers, such as of log-probabilities, with the rounding of these.
    Muon's Newton-Schulz iteration multiplies the rounding of its update.
    """
    made, state, step = prepare(row.name)
    expected, after = made.step(state, row.batch(1)), step(narrow(state), narrow(row.batch(1)))
    assert type(after) is type(expected)
    assert_near(expected.metrics, after.metrics, 1e-6, atol=1e-6)
    assert_near(expected.opt_state, after.opt_state, 1e-6)
    tolerance = 5e-6 if "muon" in row.name else 1e-6
    assert_near((expected.params, expected.extra), (after.params, after.extra), tolerance)
    assert tree.leaves(after.step) == [2]


def test_fifty_steps(prepare: Callable) -> None:
    """AdamW, clipped, with a warm-up.

    The losses stay within 2.6e-7. The parameters are 1.2e-6 apart: a gradient smaller than another's rounding
    has a large relative error, and Adam moves its parameter as far as the others.
    """
    made, state, step = prepare("pretrain")
    after = narrow(state)
    for i in range(50):
        state, after = made.step(state, text_batch(i)), step(after, narrow(text_batch(i)))
        assert float(after.metrics["loss"]) == pytest.approx(float(state.metrics["loss"]), rel=1e-6)
    assert_near(state.params, after.params, 3e-6)


@pytest.mark.parametrize("name", ["pretrain", "dpo"])
def test_bfloat16_is_as_near_to_float64_as_torch_is(name: str) -> None:
    """The gradients' relative errors, leaf by leaf, in JAX and in torch: both round to 8 bits, each elsewhere."""
    batch = test_stages.BY_NAME[name].batch(0)
    model = transformer(small(num_hidden_layers=1))
    reference = {"reference": model.init(random.key(77))} if name == "dpo" else {}
    build = {"pretrain": pretrain, "dpo": dpo}[name]
    exact, rough = (
        build(model, with_momentum(0.1), compute=dtype, **reference)
        for dtype in (torch.float64, torch.bfloat16)
    )
    state = exact.init(random.key(0))
    results = exact.step(state, batch), rough.step(state, batch), lowered(rough.step, state, batch)
    wanted, *found = ([np.asarray(x, np.float64) for x in tree.leaves(r.opt_state)] for r in results)
    in_torch, in_jax = (
        np.array([np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(leaves, wanted, strict=True)])
        for leaves in found
    )
    assert 1e-3 < in_torch.mean() < 2e-2
    assert in_jax.mean() < 1.2 * in_torch.mean()
    assert (in_jax < 2 * in_torch).all()


def test_the_update_of_every_optimizer() -> None:
    """All in one program, after two updates: a failure names the optimizer by the path.

    Parameters are compared, not updates: Newton-Schulz multiplies the rounding of Muon's by 3.4 in each of five steps.
    """
    chosen = {row.name: row.ours() for row in TABLE}
    params, states = tensors(random_arrays(0)), {}
    for name, opt in chosen.items():
        states[name] = opt.init(params)
        for i in (1, 2):
            grads = tensors(random_arrays(i))
            _, states[name] = opt.update(grads, states[name], params, **extra_arguments(grads))

    def update(grads: Tree, states: Tree, params: Tree) -> Tree:
        extra = extra_arguments(grads)
        results = {}
        for name, opt in chosen.items():
            updates, state = opt.update(grads, states[name], params, **extra)
            results[name] = optim.apply_updates(params, updates), state
        return results

    args = (tensors(random_arrays(9)), states, params)
    expected, result = update(*args), lowered(update, *args)
    narrow_moments = {name for name in chosen if "narrow" in name}
    assert_near(*({k: v for k, v in x.items() if k not in narrow_moments} for x in (expected, result)), 2e-6)
    assert_near(*({k: v for k, v in x.items() if k in narrow_moments} for x in (expected, result)), 0.01)


def test_every_loss_and_its_gradient() -> None:
    """All in one program; gradients of a weighted sum of all results, for every floating argument."""
    arguments = {loss.name: dict(loss.arguments) for loss in LOSSES}
    floats, rest = tree.partition(lambda path, x: x.is_floating_point(), arguments)

    def compute(floats: Tree) -> tuple[Tensor, Tree]:
        given = tree.combine(floats, rest)
        results = {loss.name: tree.leaves(loss.function(**given[loss.name])) for loss in LOSSES}
        flat = torch.cat([x.flatten() for x in tree.leaves(results) if x.is_floating_point()])
        return (flat * torch.arange(len(flat)).cos()).sum(), results

    def weigh(floats: Tree) -> Tensor:
        return compute(floats)[0]

    result = lower(compute, floats)
    slopes, results = run(jax.grad(result, has_aux=True), narrow(floats))
    assert_near(compute(floats)[1], results, 1e-6, atol=1e-6)
    assert_near(grad(weigh)(floats), slopes, 2e-6, atol=1e-6)


@pytest.fixture(scope="module")
def language() -> tuple:
    model = transformer(small(num_hidden_layers=1))
    return model, model.init(random.key(3))


def test_forward_decode_and_init(language: tuple) -> None:
    model, params = language
    prompt, more = BATCH["tokens"][:, :4], BATCH["tokens"][:, 4:]

    def use(params: Tree, prompt: Tensor, more: Tensor) -> tuple:
        first, cache = model.decode(params, prompt, model.cache(len(prompt), 8))
        second, cache = model.decode(params, more, cache)
        return model.forward(params, torch.cat([prompt, more], 1)), first, second, cache

    assert_near(use(params, prompt, more), lowered(use, params, prompt, more), 1e-6)
    assert_near(model.init(random.key(5)), lowered(model.init, random.key(5)), 1e-6)


def test_derivatives_in_jax(language: tuple) -> None:
    """jit, grad, vmap of grad, checkpoint and the product with the Hessian, of one lowered loss."""
    model, params = language
    loss = pretrain(model, optim.sgd(0.1)).loss
    key = random.key(1)
    batch = {"batch_position": torch.arange(len(BATCH["tokens"])), **BATCH}
    of_batch = lower(lambda p, b: loss(p, b, key)[0], params, batch)
    one = tree.map(lambda x: x[:1], batch)
    of_one = lower(lambda p, b: loss(p, b, key)[0], params, one)
    given, rows = narrow(params), narrow(batch)
    direction = tree.map(jnp.ones_like, given)

    def compute(p: Tree, b: Tree) -> Tree:
        value, slope = jax.value_and_grad(of_batch)(p, b)
        each = jax.vmap(jax.grad(lambda p, r: of_one(p, jax.tree.map(lambda x: x[None], r))), (None, 0))(p, b)
        again = jax.grad(jax.checkpoint(of_batch))(p, b)
        product = jax.jvp(lambda p: jax.grad(of_batch)(p, b), (p,), (direction,))[1]
        return {"value": value, "slope": slope, "each": each, "again": again, "product": product}

    result = run(compute, given, rows)
    total = lambda p: loss(p, batch, key)[0]  # noqa: E731
    value, slope = value_and_grad(total)(params)
    product = grad(lambda p: sum(x.sum() for x in tree.leaves(grad(total)(p))))(params)
    each = per_sample_grad(loss)(params, BATCH, key)
    expected = {"value": value, "slope": slope, "each": each, "again": slope, "product": product}
    assert_near(expected, result, 2e-6)


MESH = """
import json, re, sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from pure import optim, random, tree
from pure.interop.jax import lower, to_jax as narrow, to_optax
from tests.laws.test_stages import small, text_batch
from pure.nn.transformer import transformer
from stages.pretrain import pretrain

made = pretrain(transformer(small(num_hidden_layers=1, vocab_size=16)), optim.sgd(0.1))
batch = {name: x.clamp(max=15).int() for name, x in text_batch(0).items()}
state = made.init(random.key(0))
expected = made.step(state, batch)
step = lower(made.step, state, batch)
quick = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

def compiled(mesh, place):
    put = lambda t, spec: jax.device_put(t, jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), t))
    given = put(narrow(state), place), put(narrow(batch), lambda x: P("data"))
    shardings = jax.tree.map(lambda x: x.sharding, given[0])
    made = jax.jit(step, out_shardings=shardings).lower(*given).compile(quick)
    after = made(*given)
    text = made.as_text()
    count = {name: len(re.findall(rf"= \\S+ {name}\\(", text)) for name in ("all-reduce", "all-gather")}
    apart = max(float(np.abs(np.asarray(y) - x.numpy()).max()) for x, y in
                zip(tree.leaves(expected.params), tree.leaves(after.params), strict=True))
    kept = jax.tree.all(jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y, x.ndim), after, shardings))
    return {"loss": float(after.metrics["loss"]), "params": apart, "kept": kept, **count}

devices = np.array(jax.devices())
data = compiled(Mesh(devices, ("data",)), lambda x: P())
grid = Mesh(devices.reshape(4, 2), ("data", "model"))
split = lambda x: P("data", "model") if x.ndim == 2 and x.shape[0] % 4 == 0 and x.shape[1] % 2 == 0 else P()
both = compiled(grid, split)

settings = {"weight_decay": 0.1, "eps": 1e-3}
ours = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(0.1, **settings))
tx = optax.chain(optax.clip_by_global_norm(1.0), to_optax(optim.adamw(0.1, **settings)))
updates, _ = ours.update(tree.map(lambda x: x.cos(), state.params), ours.init(state.params), state.params)
params = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(grid, split(x))), narrow(state.params))
given = jax.tree.map(jnp.cos, params), tx.init(params), params
sharded, opt_state = jax.jit(tx.update).lower(*given).compile(quick)(*given)
after = sharded, opt_state[1][0].mu
update = {
    "apart": max(float(np.abs(np.asarray(y) - x.numpy()).max()) for x, y in
                 zip(tree.leaves(updates), tree.leaves(sharded), strict=True)),
    "kept": all(jax.tree.all(jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, y.ndim), t, params))
                for t in after),
}

loss = lambda p, b: made.loss(p, b, None)[:2]
one = tree.map(lambda x: x[:1], {"batch_position": np.arange(1), **batch})
local = lower(loss, state.params, {k: v for k, v in one.items() if k != "batch_position"})
def mean(p, b):
    total, count = local(p, b)
    return jax.lax.psum(total, "data") / jax.lax.psum(count, "data")
mesh = Mesh(devices, ("data",))
mapped = jax.shard_map(mean, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
given = narrow(state.params), narrow(batch)
mapped = float(jax.jit(mapped).lower(*given).compile(quick)(*given))
print(json.dumps({"expected": float(expected.metrics["loss"]), "data": data, "both": both, "mapped": mapped,
                  "update": update}))
"""


def test_a_mesh_of_eight_devices() -> None:
    """Data parallel; 4 x 2 with sharded matrices; `to_optax` of these; shard_map of a loss lowered for one row."""
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", MESH],
        env={**os.environ, **flags, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name in ("data", "both"):
        assert abs(found[name]["loss"] - found["expected"]) < 1e-6 * found["expected"]
        assert found[name]["params"] < 1e-6
        assert found[name]["kept"]
    assert abs(found["mapped"] - found["expected"]) < 1e-6 * found["expected"]
    assert found["data"]["all-gather"] == 0 < found["data"]["all-reduce"] <= 8
    assert found["both"]["all-gather"] > 0
    assert found["update"]["kept"]
    assert found["update"]["apart"] < 1e-7
