"""Dropout of adapters by stage, and messages about flags that have no effect."""

from __future__ import annotations

import pytest

from stages.run import adapter_flags
from stages.run.options.tuning import (
    STAGES,
    DPOOptions,
    GRPOOptions,
    RewardOptions,
    SFTOptions,
    TuningOptions,
)


def test_only_sft_uses_dropout_by_default() -> None:
    for kind in STAGES.values():
        assert adapter_flags.uses_dropout(kind(model_path="m")) == (kind is SFTOptions)
    for kind in (RewardOptions, DPOOptions):
        assert adapter_flags.uses_dropout(kind(model_path="m", disable_dropout=False))


@pytest.mark.parametrize("kind", [kind for kind in STAGES.values() if kind is not SFTOptions])
def test_a_dropout_flag_without_effect_is_refused(kind: type[TuningOptions]) -> None:
    with pytest.raises(ValueError, match=r"--lora_dropout 0.1: this stage trains without dropout"):
        adapter_flags.check_dropout(kind(model_path="m", lora_dropout=0.1))
    adapter_flags.check_dropout(kind(model_path="m", lora_dropout=0.0))
    adapter_flags.check_dropout(SFTOptions(model_path="m", lora_dropout=0.1))
    adapter_flags.check_dropout(DPOOptions(model_path="m", lora_dropout=0.1, disable_dropout=False))


def test_a_preset_whose_dropout_has_no_effect_is_reported() -> None:
    assert adapter_flags.describe_idle_dropout(GRPOOptions(model_path="m"), 0.05).endswith(
        "without dropout, so their dropout of 0.05 has no effect"
    )
    assert adapter_flags.describe_idle_dropout(SFTOptions(model_path="m"), 0.05) == ""
    assert adapter_flags.describe_idle_dropout(GRPOOptions(model_path="m"), 0.0) == ""
