"""`pure.adapt.qlora`: adapters over a base quantised to NF4."""

from __future__ import annotations

import torch

from pure import random, tree
from pure.adapt.attach import materialize
from pure.adapt.lora import lora
from pure.adapt.qlora import qlora, quantize_layers
from pure.nn.nf4 import NF4
from tests.pure.adapt.peer import perturb, prompt_tokens, small_model


def test_qlora_equals_lora_over_the_dequantised_base() -> None:
    model, base = small_model()
    ours, plain = qlora(model, base, rank=2), lora(model, materialize(quantize_layers(base)), rank=2)
    adapters = perturb(ours.init(random.key(1)))
    torch.testing.assert_close(
        ours.forward(adapters, prompt_tokens()),
        plain.forward(adapters, prompt_tokens()),
        rtol=1e-4,
        atol=1e-5,
    )

    def mean_square(model: object, adapters: object) -> torch.Tensor:
        return model.forward(adapters, prompt_tokens()).square().mean()  # type: ignore[attr-defined]

    grads = [torch.func.grad(lambda a, m=m: mean_square(m, a))(adapters) for m in (ours, plain)]
    for x, y in zip(*(tree.leaves(g) for g in grads), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)


def test_quantize_layers_keeps_embedding_and_norms() -> None:
    _, base = small_model()
    quantized = quantize_layers(base)
    assert len(tree.nodes(NF4, quantized)) == 14
    assert quantized["embedding"] is base["embedding"]
    assert quantized["layers"][0]["attention_norm"]["scale"] is base["layers"][0]["attention_norm"]["scale"]
