"""The two pairs on which everything stands: a model and an optimizer. This file imports nothing local.

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
"""A number that changes during a run: count [] int32 of optimizer updates so far -> value [] float32."""


@runtime_checkable
class Logits(Protocol):
    """A score for each word, such as `model.logits`: (params, hidden [..., D]) -> [..., V]."""

    def __call__(self, params: Tree, hidden: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """What one parameter is before it exists: initialisation, counting, checks and conversions derive from
    it.

    Args:
        shape: the parameter's shape; matrices are (out, in).
        init: "normal", "zeros" or "ones".
        std: standard deviation of "normal", > 0.
        dtype: storage type, float32 unless the weights are to be kept narrower.
    """

    shape: tuple[int, ...]
    init: str = "normal"
    std: float = 0.02
    dtype: torch.dtype = torch.float32


def as_they_are(params: Tree, *, rows: int | None = None) -> Tree:
    """Returns the params: what a model prepares that has nothing to prepare."""
    return params


class Model(NamedTuple):
    """A language model as pure functions; `params` never lives inside.

    Fields:
        config: the frozen configuration it was built from.
        spec: tree of ParamSpec, of the same structure as the params.
        init: key [2] uint32 -> params.
        hidden: (params, tokens [B, T], *, positions=None, segment_ids=None, key=None) -> [B, T, D].
        logits: (params, hidden [..., D]) -> [..., V].
        forward: logits ∘ hidden, with the arguments of hidden -> [B, T, V].
        cache: (batch, length, dtype=float32, device="cpu") -> an empty KV cache, with one length per row.
        decode: (params, tokens [B, T], cache, *, last=False) -> (logits [B, T, V], cache); `last`, True or
            [B] places, gives [B, 1, V].
        prepare: (params, *, rows=None) -> the same in the order that decode reads fastest for so many rows (a
            copy), for who decodes many tokens.
    """

    config: Any
    spec: Tree
    init: Callable[..., Tree]
    hidden: Callable[..., Tensor]
    logits: Logits
    forward: Callable[..., Tensor]
    cache: Callable[..., Tree]
    decode: Callable[..., tuple[Tensor, Tree]]
    prepare: Callable[..., Tree] = as_they_are


class GradientTransformation(NamedTuple):
    """optax's pair: `state = init(params)`; `updates, state = update(updates, state, params, **extra)`.

    Updates are *added* to the params, so a descent direction carries its minus sign. `extra` holds what was
    computed elsewhere and is passed down every chain: `grad_norm` [] (the global norm, when the caller has it
    already), `finite` [] bool (whether every gradient is finite) and `value` [] (the loss, for
    reduce-on-plateau). An update that takes no `**extra` is called without.
    """

    init: Callable[[Tree], Tree]
    update: Callable[..., tuple[Tree, Tree]]
