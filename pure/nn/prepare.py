"""Parameters laid out for decoding, where every step multiplies few rows by all weights.

Shape letters: D width, N query heads, K key-value heads, H head width, F inner width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pure.config import ModelConfig
from pure.nn.packed import pack
from pure.types import Tree, identity_prepare


def prepare(params: Tree, *, rows: int | None = None, config: ModelConfig) -> Tree:
    """Copies the params into the layout that `decode` reads fastest; the results are the same.

    With few rows, a matrix product takes as long as calling the kernel and reading the weights. So matrices
    with the same input are concatenated, and on a CPU bfloat16 matrices are packed. (Not for one row: there
    the compiler's own loop is faster, see `pure.nn.linear`.)

    Args:
        params: as `pure.nn.transformer.transformer_spec`; a node in place of a tensor (an adapter,
            quantised weights) is left unchanged.
        rows: batch size of the decoding; None if unknown.
        config: for tie_word_embeddings.

    Returns:
        A tree in which q, k, v [(N + 2K)·H, D] are one leaf "q_k_v", gate and up [2F, D] one leaf "gate_up",
        likewise their biases; a tied embedding is copied to "head" [V, D]; and matrices are packed, where the
        CPU supports it. Params that are prepared already are returned unchanged.
    """
    pack_leaf = identity_prepare if rows == 1 else _pack_tensor
    layers = [
        {name: _prepare_part(part, pack_leaf) for name, part in layer.items()} for layer in params["layers"]
    ]
    is_tied = config.tie_word_embeddings and "head" not in params
    head = params["embedding"] if is_tied else params["head"]
    return {**params, "layers": layers, "head": pack_leaf(head)}


def _prepare_part(params: Tree, pack_leaf: Callable[[Tree], Tree]) -> Tree:
    """Concatenates, then packs, the parameters of attention, feed-forward or a norm."""
    for names in (("q", "k", "v"), ("gate", "up")):
        params = _concatenate(params, names)
        params = _concatenate(params, names, suffix="_bias")
    return {name: pack_leaf(x) for name, x in params.items()}


def _concatenate(params: Tree, names: tuple[str, ...], *, suffix: str = "") -> Tree:
    """Replaces these leaves by their concatenation, if all exist and are tensors."""
    old = [name + suffix for name in names]
    tensors = [params.get(name) for name in old]
    if not all(isinstance(x, Tensor) for x in tensors):
        return params
    rest = {name: x for name, x in params.items() if name not in old}
    return {**rest, "_".join(names) + suffix: torch.cat(tensors)}


def _pack_tensor(x: Tree) -> Tree:
    """Packs a tensor; returns a node unchanged."""
    return pack(x) if isinstance(x, Tensor) else x
