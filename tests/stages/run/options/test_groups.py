"""Flags that several subcommands share, and `defaults`, which changes their default values."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import get_type_hints

import pytest

from stages.run.options.groups import DeviceFlags, SamplingFlags, defaults
from stages.run.options.ranges import check_values


def test_a_changed_default_keeps_type_range_and_order() -> None:
    @dataclass(frozen=True, kw_only=True)
    @defaults(temperature=0.5)
    class Flags(DeviceFlags, SamplingFlags):
        own: int = 1

    assert [field.name for field in fields(Flags)] == ["temperature", "top_p", "device", "seed", "own"]
    assert all(field.default is not MISSING for field in fields(Flags))
    assert Flags() == Flags(temperature=0.5)
    assert SamplingFlags().temperature == 1.0
    assert get_type_hints(Flags)["temperature"] is float
    with pytest.raises(ValueError, match=r"--temperature: expected a finite number, at least 0, got -1\.0"):
        check_values(Flags(temperature=-1.0))


def test_a_default_for_an_unknown_flag_is_refused() -> None:
    with pytest.raises(TypeError, match="defaults: DeviceFlags inherits no temperature"):
        defaults(temperature=0.5)(DeviceFlags)
