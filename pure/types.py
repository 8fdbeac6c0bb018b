"""The types that every part shares: a model, an optimizer, their trees. This file imports nothing local.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

Tree = Any
"""Nested dict / list / tuple / NamedTuple of tensors. `None` is an empty node, as in JAX and optree."""

Schedule = Callable[[Tensor], Tensor]
"""A value that changes during a run: count [] int32 of optimizer updates so far -> value [] float32."""


@runtime_checkable
class Logits(Protocol):
    """Scores of the vocabulary's tokens, such as `model.logits`: (params, hidden [..., D]) -> [..., V]."""

    def __call__(self, params: Tree, hidden: Tensor, /) -> Tensor: ...


@runtime_checkable
class Hidden(Protocol):
    """Hidden states of tokens [B, T] -> [B, T, D], such as `model.hidden`."""

    def __call__(
        self,
        params: Tree,
        tokens: Tensor,
        /,
        *,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        key: Tensor | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """Shape, dtype and initialisation of one parameter; counting, checks and conversions derive from it.

    Args:
        shape: the parameter's shape; matrices are (out, in).
        init: "normal", "zeros" or "ones".
        std: standard deviation of "normal", > 0.
        dtype: storage type; float32 unless the weights are stored in half precision.
    """

    shape: tuple[int, ...]
    init: str = "normal"
    std: float = 0.02
    dtype: torch.dtype = torch.float32


def identity_prepare(params: Tree, *, rows: int | None = None) -> Tree:
    """Returns the params unchanged: the default `prepare`."""
    return params


class Parallel(NamedTuple):
    """Groups of processes that compute a model together, and the function that builds it for other groups.

    Fields:
        build: (*, tensor=None, context=None) -> Model, with `pure.parallel.group.Group`s.
        tensor: the processes that share its matrices (`pure.nn.tensor_parallel`), or None.
        context: the processes that share its rows' places (`pure.nn.context_parallel`), or None.
    """

    build: Callable[..., Model]
    tensor: Any = None
    context: Any = None


class Model(NamedTuple):
    """A language model as pure functions of its params, which it does not hold.

    Fields:
        config: the frozen configuration it was built from.
        spec: tree of ParamSpec, of the same structure as the params.
        init: key [2] uint32 -> params.
        hidden: (params, tokens [B, T], *, positions=None, segment_ids=None, key=None) -> [B, T, D];
            key None disables dropout.
        logits: (params, hidden [..., D]) -> [..., V].
        forward: logits ∘ hidden, with the arguments of hidden -> [B, T, V].
        cache: (batch, length, dtype=float32, device="cpu") -> an empty KV cache, with one length per row.
        decode: (params, tokens [B, T], cache, *, last=False) -> (logits [B, T, V], cache); `last`, True or
            [B] positions, gives [B, 1, V].
        prepare: (params, *, rows=None) -> a copy in the layout that `decode` reads fastest with `rows` rows
            in the batch; it pays off in long decoding.
        parallel: the groups of processes that compute it; None for a model that one process computes.
    """

    config: Any
    spec: Tree
    init: Callable[..., Tree]
    hidden: Hidden
    logits: Logits
    forward: Hidden
    cache: Callable[..., Tree]
    decode: Callable[..., tuple[Tensor, Tree]]
    prepare: Callable[..., Tree] = identity_prepare
    parallel: Parallel | None = None


class GradientTransformation(NamedTuple):
    """An optimizer, or one transformation in a chain, as in optax: two pure functions.

        state = init(params)
        updates, state = update(updates, state, params, **extra)

    Updates are *added* to the params, so a descent direction has its minus sign. `extra` is passed to every
    transformation in a chain: `grad_norm` [] (the global norm, if the caller has computed it), `finite` []
    bool (all gradients are finite) and `value` [] (the loss, for reduce-on-plateau). An `update` that does
    not accept `**extra` is called without it.
    """

    init: Callable[[Tree], Tree]
    update: Callable[..., tuple[Tree, Tree]]
