"""A pretraining step as a JAX user would write it by hand, jax.numpy and optax, for the model of `_model.py`.

Params are ours: nested dicts with matrices [out, in]. B rows, T tokens, N query heads, K key-value heads, H
head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pure.config import ModelConfig


def make_loss(config: ModelConfig) -> Callable[[Any, Any, Any], Any]:
    """Return loss(params, tokens, labels): the mean cross-entropy, nats a token."""

    def loss(params: Any, tokens: Any, labels: Any) -> Any:
        hidden = params["embedding"][tokens]
        for layer in params["layers"]:
            x = _rms_norm(hidden, layer["attention_norm"]["scale"], config.rms_norm_eps)
            hidden = hidden + _attention(layer["attention"], x, config)
            x = _rms_norm(hidden, layer["feedforward_norm"]["scale"], config.rms_norm_eps)
            parts = layer["feedforward"]
            hidden = hidden + (jax.nn.silu(x @ parts["gate"].T) * (x @ parts["up"].T)) @ parts["down"].T
        hidden = _rms_norm(hidden, params["norm"]["scale"], config.rms_norm_eps)
        logits = hidden @ params["embedding"].T
        chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - chosen)

    return loss


def make_step(loss: Callable, optimizer: optax.GradientTransformation) -> Callable:
    """Return step(params, opt_state, tokens, labels) -> (params, opt_state, loss)."""

    def step(params: Any, opt_state: Any, tokens: Any, labels: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(loss)(params, tokens, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return step


def _rms_norm(x: Any, scale: Any, eps: float) -> Any:
    """x over its root mean square, times a scale."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale


def _attention(params: Any, x: Any, config: ModelConfig) -> Any:
    """Causal grouped-query attention with rotary positions."""
    rows, length, _ = x.shape
    size, queries, keys = config.head_dim or 0, config.num_attention_heads, config.num_key_value_heads
    q = _rotate((x @ params["q"].T).reshape(rows, length, queries, size), config.rope_theta)
    k = _rotate((x @ params["k"].T).reshape(rows, length, keys, size), config.rope_theta)
    v = (x @ params["v"].T).reshape(rows, length, keys, size)
    q = q.reshape(rows, length, keys, queries // keys, size)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k) * size**-0.5
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores, -1), v)
    return mixed.reshape(rows, length, queries * size) @ params["o"].T


def _rotate(x: Any, theta: float) -> Any:
    """Rotates the two halves of each head by angles that grow with the position."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
