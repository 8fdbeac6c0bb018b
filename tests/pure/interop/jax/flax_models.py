"""Small causal Flax models for the tests: a cumulative mean in the place of attention, so that they compile
fast."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

VOCABULARY, WIDTH = 11, 6


def causal_mean(x: Any) -> Any:
    """[B, T, D] -> [B, T, D], the mean of the positions so far."""
    return jnp.cumsum(x, 1) / jnp.arange(1, x.shape[1] + 1)[:, None]


class Linen(linen.Module):
    """A residual layer with dropout, and a head."""

    rate: float = 0.0
    causal: bool = True

    def setup(self) -> None:
        self.embed = linen.Embed(VOCABULARY, WIDTH)
        self.layer = linen.Dense(WIDTH)
        self.dropout = linen.Dropout(self.rate)
        self.head = linen.Dense(VOCABULARY, use_bias=False)

    def hidden(self, tokens: Any, deterministic: bool = True) -> Any:
        x = self.embed(tokens)
        mixed = causal_mean(x) if self.causal else x.mean(1, keepdims=True)
        return x + self.dropout(jax.nn.silu(self.layer(mixed)), deterministic=deterministic)

    def __call__(self, tokens: Any, deterministic: bool = True) -> Any:
        return self.head(self.hidden(tokens, deterministic))


class Block(nnx.Module):
    """The residual layer in nnx, whose dropout is set by train() and eval()."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.dropout(jax.nn.silu(self.linear(causal_mean(x))))


class Nnx(nnx.Module):
    """A list of layers, whose keys are integers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.layers = nnx.List([Block(rngs) for _ in range(2)])
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
