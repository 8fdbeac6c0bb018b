"""The pairs that everything else is made of."""

from __future__ import annotations

import torch

from pure.types import Model, ParamSpec, identity_prepare


def test_a_custom_model_need_not_define_prepare() -> None:
    model = Model(*[None] * 8)
    params = {"w": torch.ones(2)}
    assert model.prepare(params) is params
    assert identity_prepare(params) is params


def test_a_specification_says_shape_and_start() -> None:
    spec = ParamSpec(shape=(2, 3))
    assert (spec.shape, spec.dtype) == ((2, 3), torch.float32)
