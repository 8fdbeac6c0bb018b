"""Adapters are attached to matrices as nodes, and materialized as matrices again."""

from __future__ import annotations

import torch

from pure import random, tree
from pure.adapt.attach import materialize
from pure.adapt.lora import lora
from pure.nn.linear import LoRA
from tests.pure.adapt.peer import moved, small


def test_a_matrix_without_adapter_is_the_base_itself() -> None:
    model, base = small()
    ours = lora(model, base, targets=["q"])
    attached = ours.hidden.keywords["attached"](moved(ours.init(random.key(0))))  # type: ignore[attr-defined]
    assert len(tree.nodes(LoRA, attached)) == 2
    assert attached["embedding"] is base["embedding"]
    assert attached["layers"][0]["attention"]["k"] is base["layers"][0]["attention"]["k"]


def test_whole_is_w_plus_ba() -> None:
    base, a, b = (random.normal(random.key(i), s) for i, s in enumerate([(5, 6), (2, 6), (5, 2)]))
    made = materialize({"w": LoRA(base, a, b), "n": [base]})
    torch.testing.assert_close(
        made["w"].double(), base.double() + b.double() @ a.double(), rtol=1e-5, atol=1e-5
    )
    assert made["n"][0] is base
