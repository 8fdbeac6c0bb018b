"""Options of adapters, and the matrices that they fit."""

from __future__ import annotations

import pytest

from pure.adapt.lora_config import PRESETS, lora_config, sites
from tests.pure.adapt.peer import small


def test_presets_grow() -> None:
    _, base = small()
    sizes = []
    for name in PRESETS:
        found = sites(base, lora_config(name))
        sizes.append(sum(site.rank * sum(site.shape) for site in found.values()))
    assert sizes == sorted(sizes)
    assert list(PRESETS) == ["conservative", "balanced", "aggressive"]


def test_a_name_means_it_in_every_layer_and_a_path_one() -> None:
    _, base = small()
    assert list(sites(base, lora_config("balanced", targets=("q", "layers/1/feedforward/*")))) == [
        "layers/0/attention/q",
        "layers/1/attention/q",
        "layers/1/feedforward/up",
        "layers/1/feedforward/down",
        "layers/1/feedforward/gate",
    ]


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="expected one of conservative, balanced, aggressive, got 'big'"):
        lora_config("big")
