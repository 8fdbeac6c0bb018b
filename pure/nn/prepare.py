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

    The time of a product of few rows is that of the call and of reading the weights. So matrices with the
    same input are concatenated, and on a CPU bfloat16 matrices are packed. (Not for one row: there the
    compiler's own loop is faster, see `pure.nn.linear`.)

    Args:
        params: as `pure.nn.transformer.transformer_spec`; nodes in the place of a tensor are left unchanged.
        rows: rows of the batch that will be decoded; None is any number.
        config: for tie_word_embeddings.

    Returns:
        A tree in which q, k, v [(N + 2K)·H, D] are one leaf "q_k_v", gate and up [2F, D] one leaf "gate_up",
        likewise their biases; a tied embedding is copied to "head" [V, D]; and matrices are packed, where the
        CPU supports it. Params that are prepared already are returned unchanged.
    """
    finish = identity_prepare if rows == 1 else _packed
    layers = [{name: _layer_part(part, finish) for name, part in layer.items()} for layer in params["layers"]]
    head = params["embedding"] if config.tie_word_embeddings and "head" not in params else params["head"]
    return {**params, "layers": layers, "head": finish(head)}


def _layer_part(params: Tree, finish: Callable[[Tree], Tree]) -> Tree:
    """Concatenates, then packs, the parameters of attention, feed-forward or a norm."""
    for names in (("q", "k", "v"), ("gate", "up")):
        params = _joined(_joined(params, names, ""), names, "_bias")
    return {name: finish(x) for name, x in params.items()}


def _joined(params: Tree, names: tuple[str, ...], ending: str) -> Tree:
    """Replaces these leaves by one, if all exist and are tensors."""
    parts = [params.get(name + ending) for name in names]
    if not all(isinstance(part, Tensor) for part in parts):
        return params
    rest = {name: x for name, x in params.items() if name not in [name + ending for name in names]}
    return {**rest, "_".join(names) + ending: torch.cat(parts)}


def _packed(x: Tree) -> Tree:
    """Packs a tensor; returns a node unchanged."""
    return pack(x) if isinstance(x, Tensor) else x
