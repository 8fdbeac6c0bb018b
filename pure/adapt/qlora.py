"""QLoRA: LoRA over a base in four bits a weight.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pure.adapt.lora import lora
from pure.adapt.lora_config import MATRICES
from pure.nn.nf4 import quantize
from pure.types import Model, Tree


def qlora(model: Model, base: Tree, *, double: bool = True, **options: Any) -> Model:
    """Builds a model whose params are adapters, over a base with a quarter of bfloat16's memory.

    The base's matrices are dequantised inside each product, in the forward and the backward pass; adapters,
    norms and embeddings are not quantised.

        y = x (dequantise(W₄) + s B A)ᵀ     s, B, A: as in `lora`

    Args:
        model: from `transformer`.
        base: its params, not yet quantised; they are not changed.
        double: quantise the scales too.
        **options: of `pure.adapt.lora.lora`.

    Returns:
        Model.

    Raises:
        ValueError: as `lora` and `quantize`.

    Source: Dettmers et al. 2023, equation 5.
    """
    return lora(model, quantize_layers(base, double=double), **options)


def quantize_layers(base: Tree, *, double: bool = True) -> Tree:
    """Replaces every matrix of the layers by an NF4 node; embedding, head, norms and biases are unchanged.

    Raises:
        ValueError: as `quantize`.
    """
    return map_matrices(partial(quantize, double=double), base)


def map_matrices(function: Callable[[Tensor], Tree], base: Tree) -> Tree:
    """Applies a function to every matrix of the layers, and returns the other params unchanged."""
    layers = [{name: _map_block(function, part) for name, part in layer.items()} for layer in base["layers"]]
    return {**base, "layers": layers}


def _map_block(function: Callable[[Tensor], Tree], part: Tree) -> Tree:
    """Applies a function to the matrices of one block."""
    return {name: function(x) if name in MATRICES else x for name, x in part.items()}
