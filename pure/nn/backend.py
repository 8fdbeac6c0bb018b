"""Chooses how attention is computed. All ways are equal within rounding; they differ in speed and memory.

A query at index `start + i` sees the keys 0 .. start + i of its own segment. Every backend has the same
signature, `(q, k, v, *, start, segment_ids, keep) -> y`; `pure.nn.naive.naive` says what the arguments are.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, H head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pure.nn.flash import flash
from pure.nn.flex import flex
from pure.nn.naive import naive
from pure.nn.sdpa import sdpa
from pure.nn.single import single

BACKENDS: Mapping[str, Callable] = {"naive": naive, "flash": flash, "sdpa": sdpa, "flex": flex}


def choose(name: str, q: Tensor, k: Tensor, keep: Tensor | None = None) -> Callable:
    """Returns the backend of that name; "auto" takes the one measured fastest for what it is given.

    Args:
        name: "auto" or one of BACKENDS.
        q: [B, T, N, H]; only its shape, dtype and device are read.
        k: [B, S, K, H], as q.
        keep: [B, N, T, S] dropout factors, or None.

    Returns:
        One of BACKENDS' functions.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> one = torch.ones(1, 2, 1, 1)
        >>> choose("auto", one, one).__name__
        'naive'
    """
    check(name)
    if name == "auto":
        return _fastest(q, k, keep)
    return BACKENDS[name]


def check(name: str) -> None:
    """Refuses a name that is neither "auto" nor one of BACKENDS.

    Raises:
        ValueError: for such a name; it lists the known ones.
    """
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"attention backend: expected one of auto, {', '.join(BACKENDS)}, got {name!r}")


def _fastest(q: Tensor, k: Tensor, keep: Tensor | None) -> Callable:
    """The choice of "auto"."""
    if q.is_cuda and keep is None and not torch._C._are_functorch_transforms_active():
        return sdpa
    remembers = q.shape[-3] == 1 < k.shape[-3]  # one new token, and a cache of earlier ones
    return single if remembers and keep is None and torch.compiler.is_compiling() else naive
