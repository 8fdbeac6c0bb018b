"""Which stages drop out, and what is said where a flag would have no effect."""

from __future__ import annotations

import pytest

from stages.run import dropout
from stages.run.options.tuning import (
    STAGES,
    DPOOptions,
    GRPOOptions,
    RewardOptions,
    SFTOptions,
    TuningOptions,
)


def test_only_sft_drops_out_unless_a_flag_asks_for_it() -> None:
    assert [kind for kind in STAGES.values() if dropout.used(kind(model_path="m"))] == [SFTOptions]
    assert all(
        dropout.used(kind(model_path="m", disable_dropout=False)) for kind in (RewardOptions, DPOOptions)
    )


@pytest.mark.parametrize("kind", [kind for kind in STAGES.values() if kind is not SFTOptions])
def test_a_dropout_without_effect_is_refused_by_name(kind: type[TuningOptions]) -> None:
    with pytest.raises(ValueError, match=r"--lora_dropout 0.1: this stage learns without dropout"):
        dropout.refuse(kind(model_path="m", lora_dropout=0.1))
    dropout.refuse(kind(model_path="m", lora_dropout=0.0))
    dropout.refuse(SFTOptions(model_path="m", lora_dropout=0.1))
    dropout.refuse(DPOOptions(model_path="m", lora_dropout=0.1, disable_dropout=False))


def test_a_preset_whose_dropout_has_no_effect_is_said() -> None:
    assert dropout.told(GRPOOptions(model_path="m"), 0.05).endswith(
        "without dropout, so theirs, 0.05, has no effect"
    )
    assert dropout.told(SFTOptions(model_path="m"), 0.05) == ""
    assert dropout.told(GRPOOptions(model_path="m"), 0.0) == ""
