"""Choice of the attention backend. Backends agree within rounding; they differ in speed and memory.

A query at index `start + i` attends to the keys 0 .. start + i of its own segment. Every backend is an
`Attention`; `pure.nn.naive.naive` documents the arguments.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, H head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pure.nn.flash import flash
from pure.nn.flex import flex
from pure.nn.naive import naive
from pure.nn.sdpa import sdpa
from pure.nn.single import single
from pure.transform.modes import is_forward_mode


@runtime_checkable
class Attention(Protocol):
    """Attention of queries [B, T, N, H] to keys and values [B, S, K, H] -> [B, T, N, H]."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        start: Tensor | None = None,
        segment_ids: Tensor | None = None,
        dropout_mask: Tensor | None = None,
    ) -> Tensor: ...


BACKENDS: Mapping[str, Attention] = {"naive": naive, "flash": flash, "sdpa": sdpa, "flex": flex}
"""Name -> backend. `single` has no name: only "auto" selects it."""


def choose(name: str, q: Tensor, k: Tensor, dropout_mask: Tensor | None = None) -> Attention:
    """Returns the backend of that name; "auto" is the one measured fastest for these arguments.

    Args:
        name: "auto" or one of BACKENDS.
        q: [B, T, N, H]; only its shape, dtype and device are read.
        k: [B, S, K, H], as q.
        dropout_mask: [B, N, T, S], or None.

    Returns:
        A backend; for "auto" it may be `single`, which is not in BACKENDS.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> one = torch.ones(1, 2, 1, 1)
        >>> choose("auto", one, one).__name__
        'naive'
    """
    check(name)
    if name == "auto":
        return _fastest(q, k, dropout_mask)
    return BACKENDS[name]


def check(name: str) -> None:
    """Refuses a name that is neither "auto" nor one of BACKENDS.

    Raises:
        ValueError: for another name; it lists those that exist.
    """
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"attention backend: expected one of auto, {', '.join(BACKENDS)}, got {name!r}")


def _fastest(q: Tensor, k: Tensor, dropout_mask: Tensor | None) -> Attention:
    """Returns the backend that "auto" selects: the one measured fastest."""
    if dropout_mask is not None:
        return naive
    if q.is_cuda and not torch._C._are_functorch_transforms_active() and not is_forward_mode():
        return sdpa
    decoding = q.shape[-3] == 1 and k.shape[-3] > 1  # one new token and a cache of earlier ones
    return single if decoding and torch.compiler.is_compiling() else naive
