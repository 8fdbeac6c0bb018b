"""Our models in a JAX loop: equal to torch in value and gradient, trained by optax, loaded and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pure import random, tree
from pure.config import ModelConfig
from pure.interop.jax.arrays import to_jax, to_torch
from pure.interop.jax.model import decode_in_jax, model_in_jax
from pure.nn.transformer import transformer
from stages.models import language_model
from tests.stages.evaluate.small_model import small_model

CONFIG = ModelConfig(
    vocab_size=13,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=32,
    initializer_range=0.3,
    hidden_dropout=0.2,
)
MODEL = transformer(CONFIG)
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 6)).astype(np.int32)
SEGMENTS = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]], np.int32)
POSITIONS = np.array([[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1]], np.int32)


def test_init_is_ours_whatever_the_key() -> None:
    init, _ = model_in_jax(MODEL)
    ours = MODEL.init(random.key(7))
    for found in (init(jax.random.key(7)), init(jax.random.PRNGKey(7))):
        assert tree.paths(found) == tree.paths(ours)
        for x, y in zip(tree.leaves(found), tree.leaves(ours), strict=True):
            assert isinstance(x, jax.Array)
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)


def test_init_under_jit_and_vmap() -> None:
    small_init, _ = model_in_jax(MODEL._replace(init=lambda key: {"weight": random.normal(key, (3,))}))
    found = jax.jit(jax.vmap(small_init))(jax.random.split(jax.random.key(0), 2))["weight"]
    wanted = torch.stack([random.normal(key, (3,)) for key in random.split(random.key(0), 2)])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_apply_equals_torch_in_value_gradient_and_dropout() -> None:
    _, apply = model_in_jax(MODEL)
    params = MODEL.init(random.key(7))
    packing = {"positions": POSITIONS, "segment_ids": SEGMENTS}
    key = jax.random.key(3)

    @jax.jit
    def loss(params: Any) -> Any:
        return jnp.square(apply(params, TOKENS, **packing, key=key)).mean()

    def torch_loss(params: Any) -> torch.Tensor:
        ours = {name: torch.from_numpy(x).long() for name, x in packing.items()}
        tokens = torch.from_numpy(TOKENS).long()
        return MODEL.forward(params, tokens, **ours, key=random.key(3)).square().mean()

    value, grads = jax.value_and_grad(loss)(to_jax(params))
    assert float(value) == pytest.approx(float(torch_loss(params)), rel=1e-5)
    for x, y in zip(tree.leaves(grads), tree.leaves(torch.func.grad(torch_loss)(params)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_decoding_in_parts_equals_the_whole_row() -> None:
    _, apply = model_in_jax(MODEL)
    cache, decode = decode_in_jax(MODEL)
    params = to_jax(MODEL.init(random.key(7)))
    tokens = jnp.asarray(TOKENS)

    def decode_token(state: Any, token: Any) -> Any:
        logits, state = decode(params, token[:, None], state)
        return state, logits[:, 0]

    state, logits = jax.lax.scan(decode_token, cache(2, 8), tokens.T)
    assert state.length.tolist() == [6, 6]
    np.testing.assert_allclose(
        jnp.swapaxes(logits, 0, 1), jax.jit(apply)(params, tokens), rtol=1e-4, atol=1e-5
    )


def test_a_folder_in_hugging_face_layout_is_trained_by_optax(tmp_path: Path) -> None:
    language_model.save(tmp_path / "before", small_model())
    loaded = language_model.load(tmp_path / "before")
    _, apply = model_in_jax(loaded.model)
    params, optimizer = to_jax(loaded.params), optax.adamw(1e-2)
    tokens = np.random.default_rng(0).integers(0, 300, (2, 9)).astype(np.int32)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = apply(params, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(5):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]
    language_model.save(tmp_path / "after", loaded._replace(params=to_torch(params)))
    after = language_model.load(tmp_path / "after")
    rows = torch.from_numpy(tokens).long()
    logits = after.model.forward(after.params, rows[:, :-1])
    ours = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    assert float(step(params, state)[2]) == pytest.approx(float(ours), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda p: to_torch(p), (TOKENS,), "is a tensor; convert params by to_jax"),
        (lambda p: {**p, "head": p["embedding"]}, (TOKENS,), "have the unknown leaf head"),
        (lambda p: {k: x for k, x in p.items() if k != "embedding"}, (TOKENS,), "params lack embedding"),
        (
            lambda p: {**p, "embedding": p["embedding"][:5]},
            (TOKENS,),
            r"embedding: expected \[13, 8\], got \[5, 8\]",
        ),
        (
            None,
            (TOKENS.astype(np.float32),),
            r"expected tokens as an array of integers \[B, T\], got float32",
        ),
        (None, (TOKENS[0],), r"got int32 \[6\]"),
        (None, (TOKENS + 9,), "expected tokens in 0 .. 12, got 9 .. "),
        (None, (TOKENS, POSITIONS[0]), r"expected positions as integers \[2, 6\]"),
        (None, (TOKENS, None, None, 3), "expected one key of jax.random.key"),
        (
            None,
            (torch.tensor(TOKENS),),
            r"expected tokens of JAX, got a tensor of torch; write jnp.asarray\(tokens.numpy\(\)\)",
        ),
        (None, (TOKENS, torch.tensor(POSITIONS)), "expected positions of JAX, got a tensor"),
        (None, (TOKENS, None, None, random.key(0)), r"tensor of torch; give jax.random.key\(seed\)"),
    ],
)
def test_refused(change: Any, arguments: Any, message: str) -> None:
    _, apply = model_in_jax(MODEL)
    params = to_jax(MODEL.init(random.key(7)))
    with pytest.raises((TypeError, ValueError), match=message):
        apply(params if change is None else change(params), *arguments)


def test_decoding_refuses_tensors() -> None:
    cache, decode = decode_in_jax(MODEL)
    params = to_jax(MODEL.init(random.key(7)))
    for tokens, state, message in (
        (torch.tensor(TOKENS), cache(2, 8), "expected tokens of JAX, got a tensor"),
        (TOKENS, MODEL.cache(2, 8), "expected cache of JAX, got a tensor"),
    ):
        with pytest.raises(TypeError, match=message):
            decode(params, tokens, state)


def test_tokens_that_a_compiled_function_closes_over_are_checked() -> None:
    _, apply = model_in_jax(MODEL)
    params = to_jax(MODEL.init(random.key(7)))
    good, bad = jnp.asarray(TOKENS), jnp.asarray(TOKENS + 9)
    inside = jax.jit(lambda params: apply(params, good))(params)
    np.testing.assert_allclose(inside, apply(params, good), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected tokens in 0 \.\. 12, got 9 \.\. "):
        jax.jit(lambda params: apply(params, bad))(params)
