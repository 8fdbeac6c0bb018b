"""Conversion of a Flax module, linen or nnx, to a Model that every stage trains.

Shape letters: B batch, T tokens, D width, V vocabulary; N heads, H head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from flax import linen, nnx
from torch import Tensor

from pure import random, tree
from pure.interop.jax.arrays import to_jax, to_torch
from pure.interop.jax.flax_calls import (
    Call,
    FlaxModule,
    Head,
    call_by_signature,
    takes_positions_and_segments,
)
from pure.interop.jax.flax_checks import check_causal, check_dropout, check_shapes
from pure.interop.jax.flax_linen import bind_linen
from pure.interop.jax.flax_nnx import bind_nnx, state_of
from pure.interop.jax.functions import jax_fn_in_torch
from pure.interop.jax.leaf_checks import TORCH_DTYPES
from pure.interop.left_padding import call_unpadded
from pure.interop.module import identity_logits
from pure.interop.token_cache import decode_again, empty_cache
from pure.optim.axes import EXEMPT, MuonDimensionNumbers
from pure.optim.leafwise import leafwise
from pure.types import Hidden, Model, ParamSpec, Tree

TRIAL_LENGTH = 8
"""Tokens of the row on which a module is tried when a Model is made of it."""


class FlaxConfig(NamedTuple):
    """The part of a model's configuration that stages and `generate` read.

    Fields:
        vocab_size: V.
        max_position_embeddings: longest row, tokens.
        hidden_size: D, width of what `hidden` returns: V without a `logits` of its own.
        bos_token_id, eos_token_id, pad_token_id: None.
    """

    vocab_size: int
    max_position_embeddings: int
    hidden_size: int
    bos_token_id: None = None
    eos_token_id: None = None
    pad_token_id: None = None


def from_flax(
    module: Any,
    params: Any | None = None,
    *,
    vocab_size: int,
    max_length: int,
    call: Call = call_by_signature,
    logits: Head | None = None,
) -> Model:
    """Builds a Model from a causal language model written in Flax, linen or nnx.

    Its forward pass is computed by JAX, compiled once for each shape; torch differentiates through it, so all
    stages, all optimizers and per-sample gradients work. The module is never changed.

    Args:
        module: a linen module, unbound, or an nnx module; causal: the logits at a position depend on the
            tokens up to it.
        params: its params: what `module.init` returns, or only its "params"; for nnx an `nnx.State` or nested
            dicts. Arrays of JAX or NumPy, or tensors. None: linen initialises them from the key of
            `Model.init`; nnx takes the module's own.
        vocab_size: V.
        max_length: longest row, tokens.
        call: calls the module; the default passes the arguments that the module's `__call__` names. Without
            `positions` and `segment_ids` among them, rows may be padded on the left but not packed.
        logits: computes logits from hidden states, if `call` returns these instead of logits. Then losses can
            compute the logits in parts, and value functions read the hidden states.

    Returns:
        Model. Params are nested dicts by the module's own names, with strings for the integers of nnx's
        lists: "layers/0/kernel". Kernels are [in, out], as in Flax: for Muon give
        `muon_weight_dimension_numbers=kernel_matrices`. Dropout draws from the key, one key for each row;
        None evaluates. `decode` recomputes the row for every token. `params_to_flax` returns params to Flax.

    Raises:
        TypeError: if `module` is no Flax module, or a param is abstract or no float array.
        ValueError: if the module has batch statistics or other collections besides its params; if the params
            are not those of the module; if the result is not [B, T, V]; if the module is not causal. When
            called: for packed rows, or positions of their own, that it does not take.

    Example:
        >>> module = linen.Embed(5, 5)
        >>> model = from_flax(module, vocab_size=5, max_length=8)
        >>> params = model.init(random.key(0))
        >>> tree.paths(params), model.forward(params, torch.tensor([[1, 2]])).shape
        (['embedding'], torch.Size([1, 2, 5]))
    """
    call_all = partial(_call_all, call=call, logits=logits)
    if isinstance(module, linen.Module):
        bound = bind_linen(module, params, call_all)
    elif isinstance(module, nnx.Module):
        bound = bind_nnx(module, params)
    else:
        raise TypeError(
            f"from_flax: expected a module of flax.linen or flax.nnx, got {type(module).__name__}; for a "
            "torch.nn.Module use pure.interop.module.from_module"
        )
    width = check_shapes(bound, call, call_all, vocab_size)
    check_dropout(bound, call_all)
    check_causal(bound, call_all, min(TRIAL_LENGTH, max_length))
    takes_packed = call is not call_by_signature or takes_positions_and_segments(module)
    forward = _crossing(bound, call_all, takes_packed)
    hidden = forward if logits is None else _crossing(bound, call, takes_packed)
    return Model(
        config=FlaxConfig(vocab_size, max_length, width),
        spec=jax.tree.map(_spec, bound.shapes),
        init=_initializer(bound),
        hidden=hidden,
        logits=identity_logits
        if logits is None
        else jax_fn_in_torch(partial(_head, bound=bound, logits=logits)),
        forward=forward,
        cache=empty_cache,
        decode=partial(decode_again, forward=forward),
    )


def params_to_flax(module: Any, params: Tree) -> Any:
    """Returns params to Flax.

    Args:
        module: the module that was given to `from_flax`.
        params: of the Model.

    Returns:
        For linen {"params": params} of JAX arrays, for `module.apply`. For nnx an `nnx.State`, for
        `nnx.update(module, state)`.

    Example:
        >>> sorted(params_to_flax(linen.Embed(5, 5), {"embedding": torch.zeros(5, 5)})["params"])
        ['embedding']
    """
    arrays = to_jax(params)
    if isinstance(module, linen.Module):
        return {"params": arrays}
    return state_of(arrays, nnx.to_flat_state(nnx.state(module, nnx.Param)))


@leafwise
def kernel_matrices(params: Tree) -> Tree:
    """Selects the kernels of Flax's layers for Muon, whose axes are [in, out].

    Args:
        params: of a Flax module; paths and numbers of axes are read.

    Returns:
        A tree like `params`, for `muon(..., muon_weight_dimension_numbers=kernel_matrices)`. "kernel" of two
        axes:
        inputs 0, outputs 1. Kernels of attention, of three: [D, N, H] of query, key and value, and [N, H, D]
            of
        out. None, for Adam: all others, and those with "norm", "bias", "embed" or "head" in their path.

    Example:
        >>> kernel_matrices({"Dense_0": {"kernel": torch.zeros(2, 3), "bias": torch.zeros(3)}})
        {'Dense_0': {'kernel': MuonDimensionNumbers(reduction_axis=0, output_axis=1), 'bias': None}}
    """

    def select(path: str, x: Tensor) -> MuonDimensionNumbers | None:
        *parents, name = path.split("/")
        if name != "kernel" or any(word in path for word in EXEMPT):
            return None
        if x.ndim == 2:
            return MuonDimensionNumbers(0, 1)
        layer = parents[-1] if parents and x.ndim == 3 else ""
        if layer == "out":
            return MuonDimensionNumbers((0, 1), 2)
        return MuonDimensionNumbers(0, (1, 2)) if layer in ("query", "key", "value") else None

    return tree.map_with_path(select, params)


def _call_all(
    module: Any,
    tokens: Any,
    *,
    positions: Any | None = None,
    segment_ids: Any | None = None,
    train: bool = False,
    call: Call,
    logits: Head | None,
) -> Any:
    """Computes the logits."""
    hidden = call(module, tokens, positions=positions, segment_ids=segment_ids, train=train)
    return hidden if logits is None else logits(module, hidden)


def _crossing(bound: FlaxModule, call: Any, takes_packed: bool) -> Hidden:
    """Makes a function of tensors, with the arguments of `Model.hidden`, of a call."""
    evaluate = jax_fn_in_torch(partial(_evaluate, bound=bound, call=call))
    train = jax_fn_in_torch(partial(_train, bound=bound, call=call)) if bound.draws else None
    hidden = partial(_hidden, evaluate=evaluate, train=train)
    return hidden if takes_packed else partial(_hidden_unpadded, hidden=hidden)


def _hidden_unpadded(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    hidden: Hidden,
) -> Tensor:
    """Computes with the tokens only; rows may be padded on the left."""
    call = partial(hidden, params, key=key)
    if positions is None and segment_ids is None:
        return call(tokens)
    fix = "give a `call` that passes them to it"
    return call_unpadded("from_flax", call, tokens, positions, segment_ids, fix=fix)


def _hidden(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    evaluate: Callable[..., Tensor],
    train: Callable[..., Tensor] | None,
) -> Tensor:
    """Computes in JAX; with a key and dropout, one key for each row."""
    given = {"tokens": tokens, "positions": positions, "segment_ids": segment_ids}
    inputs = {name: x.to(torch.int32) for name, x in given.items() if x is not None}
    if key is None or train is None:
        return evaluate(params, inputs)
    if key.ndim == 1:
        rows = torch.arange(tokens.shape[0], device=key.device)
        key = torch.func.vmap(random.fold_in, (None, 0))(key, rows)
    return train(params, inputs, key)


def _evaluate(params: Any, inputs: dict[str, Any], *, bound: FlaxModule, call: Any) -> Any:
    """Calls the module without dropout."""
    return bound.apply(params, None, partial(_with_inputs, call=call, train=False), inputs)


def _train(params: Any, inputs: dict[str, Any], keys: Any, *, bound: FlaxModule, call: Any) -> Any:
    """Calls the module with dropout, row by row."""
    method = partial(_with_inputs, call=call, train=True)

    def apply_to_row(row: dict[str, Any], key: Any) -> Any:
        row = {name: x[None] for name, x in row.items()}
        return bound.apply(params, jax.random.wrap_key_data(key, impl="threefry2x32"), method, row)[0]

    return jax.vmap(apply_to_row)(inputs, keys)


def _with_inputs(module: Any, inputs: dict[str, Any], *, call: Any, train: bool) -> Any:
    """Calls a module with the inputs that are there."""
    options = {name: inputs.get(name) for name in ("positions", "segment_ids")}
    return call(module, inputs["tokens"], train=train, **options)


def _head(params: Any, hidden: Any, *, bound: FlaxModule, logits: Head) -> Any:
    """Computes logits from hidden states."""
    return bound.apply(params, None, logits, hidden)


def _initializer(bound: FlaxModule) -> Callable[[Tensor], Tree]:
    """Makes `Model.init`: copies of the given params, or the module's own initialisation from the key."""
    if bound.init is not None:
        return partial(_init_from_key, initialise=jax_fn_in_torch(partial(_init_typed, init=bound.init)))
    return partial(_copy, initial=to_torch(bound.initial))


def _init_from_key(key: Tensor, *, initialise: Callable[[Tensor], Tree]) -> Tree:
    """Initialises the params from a key."""
    return initialise(key)


def _init_typed(key: Any, *, init: Callable[[Any], Any]) -> Any:
    """Initialises the params from the words of a key."""
    return init(jax.random.wrap_key_data(key, impl="threefry2x32"))


def _copy(key: Tensor | None, *, initial: Tree) -> Tree:
    """Copies the given params, to the key's device."""
    return tree.map(lambda x: x.clone() if key is None else x.to(key.device, copy=True), initial)


def _spec(x: Any) -> ParamSpec:
    """Shape and dtype of a leaf."""
    return ParamSpec(shape=tuple(x.shape), dtype=TORCH_DTYPES[np.dtype(x.dtype)])
