"""Dropout of adapters by stage, and messages about flags that have no effect."""

from __future__ import annotations

import pytest

from stages.run import adapter_flags
from stages.run.build import RECIPES
from stages.run.options.tuning import (
    STAGES,
    DPOOptions,
    GRPOOptions,
    PPOOptions,
    SFTOptions,
    TuningOptions,
    check_tuning_flags,
)


def test_only_stages_that_sample_never_use_dropout() -> None:
    assert {kind for kind in STAGES.values() if not RECIPES[kind].dropout} == {GRPOOptions, PPOOptions}


@pytest.mark.parametrize("kind", [kind for kind in STAGES.values() if kind is not SFTOptions])
def test_a_dropout_flag_without_effect_is_refused(kind: type[TuningOptions]) -> None:
    with pytest.raises(ValueError, match=r"--lora_dropout 0.1: this stage trains without dropout"):
        check_tuning_flags(kind(model_path="m", lora_dropout=0.1))
    check_tuning_flags(kind(model_path="m", lora_dropout=0.0))
    check_tuning_flags(SFTOptions(model_path="m", lora_dropout=0.1))
    check_tuning_flags(DPOOptions(model_path="m", lora_dropout=0.1, disable_dropout=False))


def test_a_preset_whose_dropout_has_no_effect_is_reported() -> None:
    assert adapter_flags.describe_idle_dropout(0.05, used=False).endswith(
        "without dropout, so their dropout of 0.05 has no effect"
    )
    assert adapter_flags.describe_idle_dropout(0.05, used=True) == ""
    assert adapter_flags.describe_idle_dropout(0.0, used=False) == ""
