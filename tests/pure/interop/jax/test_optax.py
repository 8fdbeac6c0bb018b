"""optax's optimizers in our stages, ours in JAX, and states of one in the other."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
import torch

from pure import optim, random, tree
from pure.config import ModelConfig
from pure.generation.sampling import Sampling
from pure.interop.jax import (
    from_optax,
    jax_fn_in_torch,
    lower,
    state_from_optax,
    state_to_optax,
    to_jax,
    to_optax,
    to_torch,
)
from pure.nn.transformer import transformer
from pure.optim.extra import with_extra
from pure.optim.leafwise import is_leafwise
from pure.serial import serial
from pure.types import Tree
from stages.checkpoint.fingerprint import fingerprint
from stages.grpo import grpo
from stages.pretrain import pretrain
from stages.stage import Stage, stage
from tests.laws.test_stages import BY_NAME

PARAMS = {
    "w": random.normal(random.key(0), (3, 4)),
    "layers": [random.normal(random.key(1), (4,)), random.normal(random.key(2), (4, 2))],
}
MODEL = transformer(
    ModelConfig(
        vocab_size=17,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
    )
)
GROUPS = {"score": None, "samples": 2, "sampling": Sampling(max_new_tokens=3)}
LABELS = {"w": "a", "layers": ["a", "b"]}

PEERS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: optax.adamw(optax.cosine_decay_schedule(1e-2, 10), weight_decay=0.1),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(1e-2), 2),
    "partition": lambda: optax.partition({"a": optax.adam(1e-2), "b": optax.set_to_zero()}, LABELS),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2),
    "keys": lambda: optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(3)), optax.sgd(0.1)),
    "loss": lambda: optax.chain(optax.contrib.reduce_on_plateau(patience=1), optax.polyak_sgd()),
}
"""Kinds of states and arguments: one each."""


@pytest.mark.parametrize("name", PEERS)
def test_an_update_is_that_of_optax(name: str) -> None:
    tx, extra = PEERS[name](), {"grad_norm": torch.tensor(1.0), "finite": torch.tensor(True)}
    opt = from_optax(tx)
    params, peer_params = PARAMS, to_jax(PARAMS)
    state, peer_state = opt.init(params), tx.init(peer_params)
    for i in range(3):
        grads = tree.map(lambda x, i=i: ((i + 1) * x).cos(), params)
        value = torch.tensor(1.5)
        updates, state = opt.update(grads, state, params, value=value, **extra)
        params = optim.apply_updates(params, updates)
        keywords = {"value": jnp.float32(1.5), "grad": to_jax(grads)} if name == "loss" else {}
        updates, peer_state = jax.jit(tx.update)(to_jax(grads), peer_state, peer_params, **keywords)
        peer_params = optax.apply_updates(peer_params, updates)
    assert_close(params, to_torch(peer_params), 1e-6)
    assert tree.paths(state) == tree.paths(tree.map(lambda x: 0, peer_state))
    restored = serial.from_bytes(opt.init(PARAMS), serial.to_bytes(state))
    assert_close(restored, state, 0)
    assert not is_leafwise(opt)


def assert_close(ours: Tree, theirs: Tree, tolerance: float) -> None:
    assert tree.paths(ours) == tree.paths(theirs)
    for path, x, y in zip(tree.paths(ours), tree.leaves(ours), tree.leaves(theirs), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, equal_nan=True, msg=path)


def make_pretrain(optimizer: Any) -> Stage:
    return pretrain(MODEL, optimizer)


def make_grpo(optimizer: Any) -> Stage:
    reference = MODEL.init(random.key(7))
    return grpo(MODEL, optimizer, beta=0.04, variant="grpo", reference=reference, **GROUPS)


RATE = {"weight_decay": 0.1, "eps": 1e-3}  # a large eps: the first steps of Adam amplify rounding by 1 / eps


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (make_pretrain, BY_NAME["pretrain"].batch),
        (make_grpo, BY_NAME["grpo"].batch),
    ],
    ids=["pretrain", "grpo"],
)
def test_a_stage_takes_the_steps_of_our_own_optimizer(make: Callable, batch: Callable) -> None:
    """And goes on from a checkpoint bit for bit."""
    ours, theirs = make(optim.adamw(1e-2, **RATE)), make(from_optax(optax.adamw(1e-2, **RATE)))
    batches = [batch(i) for i in range(3)]
    whole = functools.reduce(theirs.step, batches, theirs.init(random.key(0)))
    reference = functools.reduce(ours.step, batches, ours.init(random.key(0)))
    assert_close(whole.params, reference.params, 1e-6)
    assert_close(tuple(whole.metrics.values()), tuple(reference.metrics.values()), 2e-6)
    if make is make_grpo:
        return
    half = theirs.step(theirs.init(random.key(0)), batches[0])
    again = make(from_optax(optax.adamw(1e-2, **RATE)))
    back = serial.from_bytes(again.init(random.key(1)), serial.to_bytes(half))
    assert_close(functools.reduce(again.step, batches[1:], back), whole, 0)


def test_a_fingerprint_has_what_the_optimizer_is_made_of() -> None:
    a, b, other = (fingerprint(make_pretrain(from_optax(optax.adamw(rate)))) for rate in (1e-3, 1e-3, 2e-3))
    assert a == b
    assert [k for k in a if a[k] != other[k]] == ["optimizer.crossed.owner.tx.update_fns.2.tx.step_size"]


def test_a_state_goes_to_optax_and_back() -> None:
    ours, theirs = optim.adamw(1e-2, weight_decay=0.1), optax.adamw(1e-2, weight_decay=0.1)
    grads = tree.map(torch.cos, PARAMS)
    _, state = ours.update(grads, ours.init(PARAMS), PARAMS)
    peer_state = state_to_optax(state, jax.eval_shape(theirs.init, to_jax(PARAMS)))
    assert jax.tree.structure(peer_state) == jax.tree.structure(theirs.init(to_jax(PARAMS)))
    updates, peer_state = jax.jit(theirs.update)(to_jax(grads), peer_state, to_jax(PARAMS))
    expected, state = ours.update(grads, state, PARAMS)
    assert_close(to_torch(updates), expected, 1e-6)
    assert_close(state_from_optax(peer_state, ours.init(PARAMS)), state, 1e-6)
    with pytest.raises(
        serial.SerialError,
        match=r"state_to_optax: a state of ScaleByAdamState, \w+, \w+ does not fit a template of TraceState, "
        r"EmptyState \(root: the data has '2', which the target lacks\); make the template with the twin",
    ):
        state_to_optax(state, optax.sgd(0.1, momentum=0.9).init(to_jax(PARAMS)))
    with pytest.raises(serial.SerialError, match=r"mu/w: expected float32\[2\]"):
        state_from_optax(peer_state, ours.init({**PARAMS, "w": torch.zeros(2)}))


def test_keys_of_a_state_become_typed_again() -> None:
    tx = optax.add_noise(0.1, 0.5, jax.random.key(3))
    state = from_optax(tx).init(PARAMS)
    for template in (tx.init(to_jax(PARAMS)), jax.eval_shape(tx.init, to_jax(PARAMS))):
        peer_state = state_to_optax(state, template)
        assert bool(peer_state.rng_key == jax.random.key(3))
    assert_close(state_from_optax(peer_state, state), state, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: from_optax(optax.adamw), "expected an optimizer such as optax.adamw.* got adamw"),
        (lambda: update_with(optax.lbfgs()), "needs an argument that a stage has not.*value_fn"),
        (lambda: update_with(optax.sgd(0.1), optim.adam(0.1)), "state is not one of this optimizer"),
        # Every combinator and every stage calls `with_extra`. (pytest's own check of types would come first.)
        (lambda: inspect.unwrap(with_extra)(optax.adamw(1e-3)), r"got one of optax; write from_optax\(optax"),
    ],
)
def test_what_cannot_be_is_answered_in_a_sentence(call: Callable, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as error:
        call()
    assert "\n" not in str(error.value)


def update_with(tx: Any, other: Any = None) -> None:
    opt = from_optax(tx)
    opt.update(PARAMS, (other or opt).init(PARAMS), PARAMS, value=torch.tensor(1.0))


def test_a_compiled_step_computes_it_as_one_operation() -> None:
    opt = from_optax(optax.adamw(1e-2))
    run = torch.compile(opt.update, fullgraph=True, backend="aot_eager")
    assert_close(run(PARAMS, opt.init(PARAMS), PARAMS), opt.update(PARAMS, opt.init(PARAMS), PARAMS), 0)


def test_our_optimizer_in_a_loop_of_jax() -> None:
    """Jitted, after one of optax's transformations, and with the params on two axes of a mesh."""
    ours = optim.chain(optim.clip(0.5), optim.adamw(1e-2, **RATE))
    tx = optax.chain(optax.clip(0.5), to_optax(optim.adamw(1e-2, **RATE)))
    params, peer_params = PARAMS, to_jax(PARAMS)
    state, peer_state = ours.init(params), tx.init(peer_params)
    update = jax.jit(tx.update)
    for _ in range(3):
        updates, state = ours.update(tree.map(torch.cos, params), state, params)
        params = optim.apply_updates(params, updates)
        updates, peer_state = update(jax.tree.map(jnp.cos, peer_params), peer_state, peer_params, value=1.0)
        peer_params = optax.apply_updates(peer_params, updates)
    assert_close(to_torch(peer_params), params, 1e-6)
    assert tree.structure(peer_state[1]) == tree.structure(state[1])
    inner = optax.sgd(0.1)
    assert to_optax(from_optax(inner)) is inner
    assert from_optax(to_optax(ours)) is ours
    with pytest.raises(TypeError, match="to_optax: expected an optimizer"):
        inspect.unwrap(to_optax)(optim.adamw)


def mean_square(params: Tree, batch: Tree, key: Any) -> tuple:
    error = jax_square(batch["x"] @ params["w"])
    return error.sum(), torch.tensor(float(len(error))), {}


jax_square = jax_fn_in_torch(jnp.square)


def test_a_step_that_calls_jax_lowers_without_a_callback() -> None:
    """An optimizer of optax, and a loss with a JAX function: the operation of aten/crossing.py."""
    made = stage(mean_square, from_optax(optax.adamw(1e-2, **RATE)))
    state, batch = (
        made.init(random.key(0), {"w": PARAMS["w"]}),
        {"x": PARAMS["layers"][1].T @ torch.ones(4, 3)},
    )
    step, given = lower(made.step, state, batch), to_jax((state, batch))
    assert "callback" not in str(jax.make_jaxpr(step)(*given))
    after, expected = to_torch(jax.jit(step)(*given)), made.step(state, batch)
    assert_close(after.params, expected.params, 1e-6)
    assert_close(after.metrics, expected.metrics, 1e-6)
    assert jax_fn_in_torch(step).func is made.step.func
