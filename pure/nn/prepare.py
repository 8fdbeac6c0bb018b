"""Parameters arranged for generation, where every step multiplies few rows by all weights.

Shape letters: D width, N query heads, K key-value heads, H head width, F inner width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pure.config import ModelConfig
from pure.nn.packed import pack
from pure.types import Tree, as_they_are


def prepare(params: Tree, *, rows: int | None = None, config: ModelConfig) -> Tree:
    """Copies the params into the order in which `decode` reads them fastest; it gives the same as with the
    params.

    Products of few rows cost by the call and by the weights they read, hardly by their arithmetic. So what
    meets the same x is multiplied at once, and on a CPU bfloat16 matrices are packed. (Not for one row: there
    the compiler's own loop is faster, see `pure.nn.linear`.)

    Args:
        params: as `pure.nn.transformer.transformer_spec`; nodes in the place of a tensor stay as they are.
        rows: that will be decoded side by side; None is any number.
        config: whether the head is the embedding.

    Returns:
        A tree in which q, k, v [(N + 2K)·H, D] are one leaf "q_k_v", gate and up [2F, D] one leaf "gate_up",
        likewise their biases; "head" [V, D] stands beside a tied embedding; and matrices are packed, where
        that exists. What was prepared already comes back as it is.
    """
    finish = as_they_are if rows == 1 else _packed
    layers = [{name: _layer_part(part, finish) for name, part in layer.items()} for layer in params["layers"]]
    head = params["embedding"] if config.tie_word_embeddings and "head" not in params else params["head"]
    return {**params, "layers": layers, "head": finish(head)}


def _layer_part(params: Tree, finish: Callable[[Tree], Tree]) -> Tree:
    """Attention, feed-forward or a norm: joined, then packed."""
    for names in (("q", "k", "v"), ("gate", "up")):
        params = _joined(_joined(params, names, ""), names, "_bias")
    return {name: finish(x) for name, x in params.items()}


def _joined(params: Tree, names: tuple[str, ...], ending: str) -> Tree:
    """The same dict, with these leaves as one, if all are there and are tensors."""
    parts = [params.get(name + ending) for name in names]
    if not all(isinstance(part, Tensor) for part in parts):
        return params
    rest = {name: x for name, x in params.items() if name not in [name + ending for name in names]}
    return {**rest, "_".join(names) + ending: torch.cat(parts)}


def _packed(x: Tree) -> Tree:
    """A tensor packed; a node as it is."""
    return pack(x) if isinstance(x, Tensor) else x
