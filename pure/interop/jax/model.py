"""Our models for JAX: init, apply and decode as functions of arrays, for a training loop written in JAX.

Shape letters: B batch, T tokens, V vocabulary, S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from pure import tree
from pure.interop.jax.arrays import key_to_torch, to_jax
from pure.interop.jax.leaf_checks import is_typed_key
from pure.interop.jax.lower import lower
from pure.types import Model, ParamSpec, Tree


class ModelInJax(NamedTuple):
    """A model as JAX functions.

    Fields:
        init: key -> params.
        apply: (params, tokens [B, T], positions=None, segment_ids=None, key=None) -> logits [B, T, V].
    """

    init: Callable[[Any], Tree]
    apply: Callable[..., Any]


class DecodeInJax(NamedTuple):
    """A model's decoding with a KV cache as JAX functions.

    Fields:
        cache: (batch, length) -> an empty cache.
        decode: (params, tokens [B, T], cache) -> (logits [B, T, V], cache).
    """

    cache: Callable[[int, int], Tree]
    decode: Callable[..., tuple[Any, Tree]]


def model_in_jax(model: Model) -> ModelInJax:
    """Lowers a model to JAX, for a training loop written in JAX.

    `apply` is a JAX function like any other: it jits, differentiates, vmaps and shards, and an optax
    optimizer trains its params. Params are nested dicts and lists of JAX arrays with our names
    ("layers/0/attention/q"), those of `stages.models.language_model.load(folder).params` after `to_jax`;
    `to_torch` returns them.

    Args:
        model: a Model, such as `transformer(config)` or what `language_model.load` returns.

    Returns:
        ModelInJax(init, apply). Keys are JAX's, typed or raw; `key` enables dropout, None disables it.
        `positions` and `segment_ids`, [B, T] integers, are those of packed rows.

    Edge cases: each shape is traced once. Call `apply` inside `jax.jit`: outside, it computes operation by
    operation. `init` of a key with a value computes in torch, which draws the same numbers (a few of them one
    to three units in the last place apart); under jit or vmap it is lowered, which takes minutes to trace for
    models of more than a few million parameters.

    Raises:
        ValueError: when called, for params that are not those of the model, tokens that are no integers [B,
            T] or, where they have values, that are outside the vocabulary.
        TypeError: when called, for params, tokens or others that are tensors, or a key that is none.

    Example:
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> config = ModelConfig(vocab_size=5, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> init, apply = model_in_jax(transformer(config))
        >>> params = init(jax.random.key(0))
        >>> jax.eval_shape(apply, params, jnp.zeros((2, 3), jnp.int32)).shape
        (2, 3, 5)
    """
    forward = lower(partial(_forward, model=model))
    return ModelInJax(
        partial(_init, model=model, lowered=lower(model.init)), partial(_apply, model=model, forward=forward)
    )


def decode_in_jax(model: Model) -> DecodeInJax:
    """Lowers a model's decoding, for a sampler written in JAX.

    Args:
        model: a Model.

    Returns:
        DecodeInJax(cache, decode). The cache is a tree of arrays, which `jax.lax.scan` can carry; its lengths
        are int32.

    Raises:
        ValueError: when called, as `model_in_jax`.

    Example:
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> config = ModelConfig(vocab_size=5, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> cache, decode = decode_in_jax(transformer(config))
        >>> cache(2, 16).length.tolist()
        [0, 0]
    """
    lowered = lower(partial(_decode, model=model))
    return DecodeInJax(partial(_cache, model=model), partial(_apply_decode, model=model, lowered=lowered))


def _forward(
    params: Tree,
    tokens: Tensor,
    positions: Tensor | None,
    segment_ids: Tensor | None,
    key: Tensor | None,
    *,
    model: Model,
) -> Tensor:
    """The forward pass in torch; integers of JAX are int32."""
    positions, segment_ids = (None if x is None else x.long() for x in (positions, segment_ids))
    return model.forward(params, tokens.long(), positions=positions, segment_ids=segment_ids, key=key)


def _decode(params: Tree, tokens: Tensor, cache: Tree, *, model: Model) -> tuple[Tensor, Tree]:
    """Decoding in torch; integers of JAX are int32."""
    logits, cache = model.decode(params, tokens.long(), _cast(cache, torch.int32, torch.int64))
    return logits, _cast(cache, torch.int64, torch.int32)


def _cast(values: Tree, old: torch.dtype, new: torch.dtype) -> Tree:
    """Converts the leaves of one dtype to another."""
    return tree.map(lambda x: x.to(new) if x.dtype == old else x, values)


def _init(key: Any, *, model: Model, lowered: Callable[..., Tree]) -> Tree:
    """Initialises the params."""
    if isinstance(key, jax.core.Tracer):
        return lowered(_key_words(key))
    return to_jax(model.init(key_to_torch(key)))


def _key_words(key: Any) -> Any:
    """The words of a key, typed or raw."""
    words = jax.random.key_data(key) if is_typed_key(key) else key
    if getattr(words, "shape", None) != (2,) or words.dtype != jnp.uint32:
        got = f"{words.dtype} {list(words.shape)}" if hasattr(words, "dtype") else type(words).__name__
        raise TypeError(
            f"model_in_jax: expected one key of jax.random.key(seed), got {got}; for many keys use jax.vmap"
        )
    return words


def _apply(
    params: Tree,
    tokens: Any,
    positions: Any | None = None,
    segment_ids: Any | None = None,
    key: Any | None = None,
    *,
    model: Model,
    forward: Callable[..., Any],
) -> Any:
    """Computes the logits."""
    _check_params(model.spec, params)
    _refuse_tensors({"tokens": tokens, "positions": positions, "segment_ids": segment_ids, "key": key})
    _check_tokens(tokens, model.config.vocab_size)
    for name, x in (("positions", positions), ("segment_ids", segment_ids)):
        if x is not None and not (jnp.issubdtype(x.dtype, jnp.integer) and x.shape == tokens.shape):
            raise ValueError(
                f"model_in_jax: expected {name} as integers {list(tokens.shape)}, like tokens, got {x.dtype} "
                f"{list(x.shape)}"
            )
    return forward(params, tokens, positions, segment_ids, None if key is None else _key_words(key))


def _cache(batch: int, length: int, *, model: Model) -> Tree:
    """Makes an empty cache."""
    return to_jax(_cast(model.cache(batch, length), torch.int64, torch.int32))


def _apply_decode(
    params: Tree, tokens: Any, cache: Tree, *, model: Model, lowered: Callable[..., Any]
) -> tuple[Any, Tree]:
    """Decodes in JAX."""
    _check_params(model.spec, params)
    _refuse_tensors({"tokens": tokens, "cache": cache})
    _check_tokens(tokens, model.config.vocab_size)
    return lowered(params, tokens, cache)


def _check_params(spec: Tree, params: Tree) -> None:
    """Refuses tensors, and params that are not those of the model."""
    wanted: dict[str, ParamSpec] = dict(zip(tree.paths(spec), tree.leaves(spec), strict=True))
    given = dict(zip(tree.paths(params), tree.leaves(params), strict=True))
    for path in sorted({*wanted, *given}):
        if path not in given or path not in wanted:
            problem = "lack" if path not in given else "have the unknown leaf"
            raise ValueError(f"model_in_jax: params {problem} {path}; are they those of this model?")
        if isinstance(given[path], Tensor):
            raise TypeError(f"model_in_jax: params {path} is a tensor; convert params by to_jax(params)")
        if given[path].shape != tuple(wanted[path].shape):
            raise ValueError(
                f"model_in_jax: params {path}: expected {list(wanted[path].shape)}, got "
                f"{list(given[path].shape)}"
            )


def _refuse_tensors(arguments: Mapping[str, Tree]) -> None:
    """Refuses tensors of torch among the arguments, by name."""
    for name, value in arguments.items():
        if any(isinstance(x, Tensor) for x in tree.leaves(value)):
            fix = {"key": "give jax.random.key(seed)", "cache": "make it by decode_in_jax(model).cache"}.get(
                name, f"write jnp.asarray({name}.numpy())"
            )
            raise TypeError(f"model_in_jax: expected {name} of JAX, got a tensor of torch; {fix}")


def _check_tokens(tokens: Any, vocabulary: int) -> None:
    """Refuses tokens that are no integers [B, T] or, where they have values, outside the vocabulary."""
    if (
        not hasattr(tokens, "dtype")
        or not jnp.issubdtype(tokens.dtype, jnp.integer)
        or len(tokens.shape) != 2
    ):
        got = f"{tokens.dtype} {list(tokens.shape)}" if hasattr(tokens, "dtype") else type(tokens).__name__
        raise ValueError(f"model_in_jax: expected tokens as an array of integers [B, T], got {got}")
    if isinstance(tokens, jax.core.Tracer) or not tokens.size:
        return
    with jax.ensure_compile_time_eval():  # inside jit, tokens that are no argument have values too
        lowest, highest = tokens.min(), tokens.max()
        if isinstance(lowest, jax.core.Tracer):  # inside shard_map
            return
        low, high = int(lowest), int(highest)
    if low < 0 or high >= vocabulary:
        raise ValueError(f"model_in_jax: expected tokens in 0 .. {vocabulary - 1}, got {low} .. {high}")
