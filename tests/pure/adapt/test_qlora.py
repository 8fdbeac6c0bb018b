"""Adapters on a quantised base."""

from __future__ import annotations

import torch

from pure import random, tree
from pure.adapt.attach import materialize
from pure.adapt.lora import lora
from pure.adapt.qlora import qlora, quantize_layers
from pure.nn.nf4 import NF4
from tests.pure.adapt.peer import moved, small, tokens


def test_is_lora_over_the_dequantised_base() -> None:
    model, base = small()
    ours, plain = qlora(model, base, rank=2), lora(model, materialize(quantize_layers(base)), rank=2)
    adapters = moved(ours.init(random.key(1)))
    torch.testing.assert_close(
        ours.forward(adapters, tokens()), plain.forward(adapters, tokens()), rtol=1e-4, atol=1e-5
    )

    def total(model: object, adapters: object) -> torch.Tensor:
        return model.forward(adapters, tokens()).square().mean()  # type: ignore[attr-defined]

    grads = [torch.func.grad(lambda a, m=m: total(m, a))(adapters) for m in (ours, plain)]
    for x, y in zip(*(tree.leaves(g) for g in grads), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)


def test_quantises_the_layers_and_leaves_the_rest() -> None:
    _, base = small()
    made = quantize_layers(base)
    assert len(tree.nodes(NF4, made)) == 14
    assert made["embedding"] is base["embedding"]
    assert made["layers"][0]["attention_norm"]["scale"] is base["layers"][0]["attention_norm"]["scale"]
