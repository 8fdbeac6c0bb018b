"""QLoRA: LoRA over a base in four bits a number.

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
    """Makes a model whose params are adapters, over a base that takes a quarter of bfloat16's memory.

    The base's matrices are dequantised inside each product and forgotten at once, forwards and backwards;
    adapters, norms and embeddings stay as they are.

    Args:
        model: from `transformer`.
        base: its params, not yet quantised; they are not changed, and may be dropped afterwards.
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
    """Puts an NF4 node in the place of every matrix of the layers; embedding, head, norms and biases stay.

    Raises:
        ValueError: as `quantize`.
    """
    return map_matrices(partial(quantize, double=double), base)


def map_matrices(function: Callable[[Tensor], Tree], base: Tree) -> Tree:
    """Applies a function to every matrix of the layers, and leaves the rest of the params."""
    layers = [{part: _mapped(function, x) for part, x in layer.items()} for layer in base["layers"]]
    return {**base, "layers": layers}


def _mapped(function: Callable[[Tensor], Tree], part: Tree) -> Tree:
    """The matrices of one block."""
    return {name: function(x) if name in MATRICES else x for name, x in part.items()}
