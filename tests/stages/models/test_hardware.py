"""`stages.models.hardware`: the device and dtype that "auto" selects."""

from __future__ import annotations

import pytest
import torch

from stages.models import hardware

CPU = torch.device("cpu")


def test_auto_is_bfloat16_only_if_the_cpu_has_bfloat16_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        assert hardware.pick_dtype("auto", CPU) == (torch.bfloat16 if supported else torch.float32)
        assert hardware.pick_dtype("bfloat16", CPU) == torch.bfloat16


def test_unknown_devices_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="--dtype int8: expected auto, float32, bfloat16, float16"):
        hardware.pick_dtype("int8", CPU)
    with pytest.raises(ValueError, match="--device tpu: expected auto, cpu or cuda"):
        hardware.pick_device("tpu")
