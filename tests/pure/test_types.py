"""`pure.types`: defaults of `Model` and `ParamSpec`."""

from __future__ import annotations

import torch

from pure.types import Model, ParamSpec, identity_prepare


def test_a_model_without_prepare_uses_the_identity() -> None:
    model = Model(*[None] * 8)
    params = {"w": torch.ones(2)}
    assert model.prepare(params) is params
    assert identity_prepare(params) is params


def test_a_param_spec_has_a_shape_and_defaults_to_float32() -> None:
    spec = ParamSpec(shape=(2, 3))
    assert (spec.shape, spec.dtype) == ((2, 3), torch.float32)
