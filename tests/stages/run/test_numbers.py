"""Numbers that cannot work are refused by the name of their flag, before any work."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stages import tuning_options as flags
from stages.options import PretrainOptions
from stages.run import numbers

GOOD = (
    PretrainOptions(),
    flags.SFTOptions(model_path=""),
    flags.GRPOOptions(model_path=""),
    flags.PPOOptions(model_path=""),
)


@pytest.mark.parametrize("options", GOOD, ids=lambda options: type(options).__name__)
def test_the_defaults_are_fine(options: object) -> None:
    numbers.refuse(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan), ("learning_rate", math.inf), ("learning_rate", -1.0), ("warmup", math.nan),
        ("final_learning_rate", -2.0), ("weight_decay", -0.1), ("max_grad_norm", -1.0), ("z_loss", math.inf),
        ("label_smoothing", 1.0), ("label_smoothing", math.nan), ("seed", 2**32), ("seed", -1), ("max_steps", 0),
        ("max_steps", 99999999999), ("save_every", -3), ("eval_every", -1), ("patience", -1), ("batch_size", 0),
        ("gradient_accumulation", 3), ("ema", 1.5), ("ema", math.nan),
    ],
)  # fmt: skip
def test_each_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^--{name}"):
        numbers.refuse(replace(PretrainOptions(), **{name: value}))


def test_patience_without_validations_never_acts() -> None:
    with pytest.raises(ValueError, match="--eval_every 0 makes none"):
        numbers.refuse(replace(PretrainOptions(), patience=2, eval_every=0))


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 0), ("temperature", 0.0), ("beta", -0.1), ("max_new_tokens", 0)]
)
def test_those_of_later_rungs_too(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^--{name}"):
        numbers.refuse(replace(flags.GRPOOptions(model_path=""), **{name: value}))
