"""`pure.adapt.attach`: LoRA nodes in place of matrices, and their merging back into matrices."""

from __future__ import annotations

import torch

from pure import random, tree
from pure.adapt.attach import materialize
from pure.adapt.lora import lora
from pure.nn.linear import LoRA
from tests.pure.adapt.peer import perturb, small_model


def test_matrices_without_an_adapter_are_the_same_objects_as_in_the_base() -> None:
    model, base = small_model()
    ours = lora(model, base, targets=["q"])
    adapters = perturb(ours.init(random.key(0)))
    attached = ours.hidden.keywords["attached"](adapters)  # type: ignore[attr-defined]
    assert len(tree.nodes(LoRA, attached)) == 2
    assert attached["embedding"] is base["embedding"]
    assert attached["layers"][0]["attention"]["k"] is base["layers"][0]["attention"]["k"]


def test_a_merged_matrix_is_rounded_once_from_float32() -> None:
    base, a, b = (random.normal(random.key(i), s) for i, s in enumerate([(5, 6), (2, 6), (5, 2)]))
    merged = materialize(LoRA(base.bfloat16(), a, b))
    assert torch.equal(merged, (base.bfloat16().float() + b @ a).bfloat16())


def test_materialize_returns_w_plus_ba() -> None:
    base, a, b = (random.normal(random.key(i), s) for i, s in enumerate([(5, 6), (2, 6), (5, 2)]))
    materialized = materialize({"w": LoRA(base, a, b), "n": [base]})
    torch.testing.assert_close(
        materialized["w"].double(), base.double() + b.double() @ a.double(), rtol=1e-5, atol=1e-5
    )
    assert materialized["n"][0] is base
