"""The laws of lowering: what is a row elsewhere (a stage, an optimizer, a loss) is a JAX function too.

A new stage, optimizer or loss inherits them from its own table. Programs are compiled by XLA without its
expensive passes. Adam's first updates divide a gradient by its own size, so that its rounding is seen in full in
the parameters: what is compared to 1e-6 is the loss, the gradients' moments, and parameters under SGD.
"""

from __future__ import annotations

import json
import os
import re
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
from stages.pretrain import pretrain
from tests.laws import test_stages
from tests.laws.test_losses import LOSSES
from tests.laws.test_optimizers import TABLE, extra_arguments, random_arrays, tensors
from tests.laws.test_stages import STAGES, Row, small, text_batch

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Compiler options with which XLA compiles small operations several times as fast."""
BATCH = text_batch(0)


def narrow(values: Tree) -> Tree:
    """A tree of tensors for JAX, whose integers have 32 bits."""
    return to_jax(tree.map(lambda x: x.int() if x.dtype == torch.int64 else x, values))


def run(function: Callable, *args: Tree) -> Tree:
    """Compiles a function of JAX and calls it."""
    return jax.jit(function).lower(*args).compile(QUICK)(*args)


def lowered(function: Callable, *args: Tree) -> Tree:
    """The result of a function of torch, computed by JAX."""
    return run(lower(function, *args), *map(narrow, args))


def moment_of(path: str) -> str:
    """The path of a tree of moments, such as "0/1/mu", from that of a leaf in it; "" elsewhere."""
    found = re.match(r"(.*\b(mu|nu))/", path)
    return found.group(1) if found else ""


def assert_near(ours: Tree, theirs: Tree, tolerance: float, atol: float = 0.0) -> None:
    """Each leaf within `tolerance` of its largest number (and `atol`), at the same paths.

    A moment of squares has twice the relative error of the gradients. A gradient in which larger numbers cancel
    has the error of those, so 1e-8 of the largest number of all moments of a kind is allowed.
    """
    assert tree.paths(ours) == tree.paths(theirs)
    largest: dict[str, float] = {}
    for path, x in zip(tree.paths(ours), tree.leaves(ours), strict=True):
        if kind := moment_of(path):
            largest[kind] = max(largest.get(kind, 0.0), float(x.abs().max()))
    for path, x, y in zip(tree.paths(ours), tree.leaves(ours), tree.leaves(theirs), strict=True):
        x, y = (np.asarray(v.float() if isinstance(v, Tensor) else v.astype(jnp.float32)) for v in (x, y))
        assert x.shape == y.shape, path
        size = np.abs(x[np.isfinite(x)]).max(initial=0.0)
        with np.errstate(invalid="ignore"):  # inf - inf, where both are infinite
            apart = np.abs(x - y)
        kind = moment_of(path)
        allowed = (2 if kind.endswith("nu") else 1) * tolerance * size + 1e-8 * largest.get(kind, 0.0) + atol
        near = (x == y) | (np.isnan(x) & np.isnan(y)) | (apart <= allowed)
        assert near.all(), f"{path}: {apart.max()} apart, of {size}"


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)
def test_the_step_of_every_stage(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step, whose moments and schedule are no longer 0."""
    test_stages.use_one_layer(monkeypatch)
    made = row.make()
    state = made.step(made.init(random.key(0)), row.batch(0))
    expected = made.step(state, row.batch(1))
    after = lowered(made.step, state, row.batch(1))
    assert type(after) is type(expected)
    assert_near(expected.metrics, after.metrics, 1e-6, atol=2e-6)
    assert_near(expected.opt_state, after.opt_state, 1e-6)
    tolerance = 1e-6 if row.name == "own" else 2e-5  # SGD; or Adam, Lion and Muon
    assert_near((expected.params, expected.extra), (after.params, after.extra), tolerance)
    assert tree.leaves(after.step) == [2]


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
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from pure import optim, random, tree
from pure.interop.jax.lower import lower
from tests.laws.test_lowering import BATCH, narrow, small
from pure.nn.transformer import transformer
from stages.pretrain import pretrain

made = pretrain(transformer(small(num_hidden_layers=1, vocab_size=16)), optim.sgd(0.1))
batch = {name: x.clamp(max=15) for name, x in BATCH.items()}
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
both = compiled(Mesh(devices.reshape(4, 2), ("data", "model")),
                lambda x: P("data", "model") if x.ndim == 2 and x.shape[0] % 4 == 0 and x.shape[1] % 2 == 0 else P())

loss = lambda p, b: made.loss(p, b, None)[:2]
one = tree.map(lambda x: x[:1], {"batch_position": np.arange(1), **batch})
local = lower(loss, state.params, {k: v for k, v in one.items() if k != "batch_position"})
def mean(p, b):
    total, count = local(p, b)
    return jax.lax.psum(total, "data") / jax.lax.psum(count, "data")
mesh = Mesh(devices, ("data",))
mapped = jax.shard_map(mean, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
mapped = float(jax.jit(mapped)(narrow(state.params), narrow(batch)))
print(json.dumps({"expected": float(expected.metrics["loss"]), "data": data, "both": both, "mapped": mapped}))
"""


def test_a_mesh_of_eight_devices() -> None:
    """Data parallel; 4 x 2 with sharded matrices; shard_map of a loss lowered for one row."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
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
