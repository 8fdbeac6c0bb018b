"""The demo's estimate: by hand from FLOPs and speed, nothing for what is done, and a speed that is measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pure.types import ParamSpec
from stages.run.duration import (
    COMPILATION,
    LATER_OVER_PRETRAINING,
    STEP_OVER_PRODUCTS,
    Plan,
    estimate_seconds,
    measure_products,
)


def plan(**changes: Any) -> Plan:
    """A model of 240 FLOPs a token without attention, see `flops_per_token`: 10 tokens a step, 600 steps."""
    config = SimpleNamespace(num_hidden_layers=0, num_attention_heads=2, head_dim=2)
    model: Any = SimpleNamespace(config=config, spec={"embedding": ParamSpec(shape=(10, 4))})
    return Plan(model, 8, 10, 600, 1.0, False, torch.bfloat16)._replace(**changes)


def test_pretraining_takes_its_products_times_a_factor_of_the_dtype_and_the_compilation() -> None:
    step = STEP_OVER_PRODUCTS[torch.bfloat16] * 240 * 10 / 4800.0
    float32 = estimate_seconds(plan(later=0.0, dtype=torch.float32), 4800.0)
    assert float32 == pytest.approx(600 * step * STEP_OVER_PRODUCTS[torch.float32] / 2)
    assert estimate_seconds(plan(later=0.0), 4800.0) == pytest.approx(600 * step)
    assert estimate_seconds(plan(later=0.0, compiled=True), 4800.0) == pytest.approx(600 * step + COMPILATION)
    assert estimate_seconds(plan(later=0.0, steps=0, compiled=True), 4800.0) == 0.0


def test_the_later_stages_take_their_share_of_600_steps() -> None:
    whole, half = (estimate_seconds(plan(steps=0, later=share), 4800.0) for share in (1.0, 0.5))
    assert whole == pytest.approx(LATER_OVER_PRETRAINING * estimate_seconds(plan(later=0.0), 4800.0))
    assert half == pytest.approx(whole / 2)


def test_the_speed_of_products_is_measured() -> None:
    assert 1e5 < measure_products(8, 8, 16, torch.float32, seconds=0.01) < 1e13
    assert measure_products(8, 8, 16, torch.float32, seconds=0.0) > 0
