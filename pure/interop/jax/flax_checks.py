"""Checks of a Flax module before it becomes a Model: shapes of its results, dropout, causality.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from pure.interop.jax.flax_calls import Call, FlaxModule

KINDS: Mapping[str, str] = MappingProxyType(
    {"hidden": "hidden states [B, T, D]", "logits": "logits [B, T, V]"}
)
"""Name of a result -> its description in a message."""


def check_shapes(bound: FlaxModule, call: Call, call_all: Callable[..., Any], vocabulary: int) -> int:
    """Checks the shapes of hidden states and logits for tokens [1, 2].

    Args:
        bound: the module.
        call: computes hidden states, or logits.
        call_all: computes logits.
        vocabulary: V.

    Returns:
        D, the width of the hidden states.

    Raises:
        ValueError: if the result of `call` is not float [1, 2, D], or the logits are not float [1, 2, V].
    """
    tokens = jnp.zeros((1, 2), jnp.int32)
    hidden = _shapes(bound, None, partial(call, positions=None, segment_ids=None, train=False), tokens)
    logits = _shapes(bound, None, call_all, tokens)
    for name, result in (("hidden", hidden), ("logits", logits)):
        shape = tuple(getattr(result, "shape", ()))
        if len(shape) != 3 or shape[:2] != (1, 2) or not jnp.issubdtype(result.dtype, jnp.floating):
            got = f"{result.dtype} {list(shape)}" if shape else type(result).__name__
            raise ValueError(
                f"from_flax: for tokens [1, 2] expected {KINDS[name]} as floats, got {got}; give from_flax a "
                "`call` that returns them"
            )
    if logits.shape[2] != vocabulary:
        raise ValueError(
            f"from_flax: vocab_size is {vocabulary}, but the module's logits have {logits.shape[2]} "
            f"entries; give vocab_size={logits.shape[2]}, or, if these are hidden states, `logits`"
        )
    return hidden.shape[2]


def check_dropout(bound: FlaxModule, call_all: Callable[..., Any]) -> None:
    """Traces the module with dropout, so that a missing random stream is found now.

    Raises:
        ValueError: if the module draws from a stream that it is not given.
    """
    try:
        _shapes(bound, jax.random.key(0), partial(call_all, train=True), jnp.zeros((1, 2), jnp.int32))
    except (flax.errors.InvalidRngError, ValueError) as error:
        if "rng" not in str(error).lower():
            raise
        raise ValueError(
            f"from_flax: with dropout the module fails: {str(error).splitlines()[0]} Its random numbers "
            "come from the "
            'stream "dropout"; build an nnx module with rngs=nnx.Rngs(0)'
        ) from error


def check_causal(bound: FlaxModule, call_all: Callable[..., Any], length: int) -> None:
    """Computes two rows that differ in the last token: the logits before it must agree.

    Args:
        bound: the module; with params.
        call_all: computes logits.
        length: T of the rows.

    Raises:
        ValueError: if they differ by more than rounding.
    """
    rows = jnp.zeros((2, length), jnp.int32).at[1, -1].set(1)
    params = bound.initial if bound.init is None else _fill(bound.shapes)
    first, second = jax.jit(lambda params, rows: bound.apply(params, None, call_all, rows))(params, rows)[
        :, :-1
    ]
    gap, scale = (float(x) for x in (jnp.abs(first - second).max(), jnp.abs(first).max()))
    if gap > 1e-2 * scale:
        raise ValueError(
            "from_flax: the module is not causal: the logits before the last token change with it (by "
            f"{gap:.1e}); give attention a causal mask, such as flax.linen.make_causal_mask(tokens)"
        )


def _shapes(bound: FlaxModule, key: Any | None, method: Callable[..., Any], *args: Any) -> Any:
    """Shape and dtype of what a method returns; nothing is computed."""
    return jax.eval_shape(lambda params: bound.apply(params, key, method, *args), bound.shapes)


def _fill(shapes: Any) -> Any:
    """Fills params with numbers of both signs, without the time that compiling an initialisation takes."""
    return jax.tree.map(
        lambda x: np.sin(np.square(np.arange(1, x.size + 1))).reshape(x.shape).astype(x.dtype), shapes
    )
