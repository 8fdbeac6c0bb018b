"""`pure.adapt.lora_config`: presets, and the matrices that the targets select."""

from __future__ import annotations

import pytest

from pure.adapt.lora_config import PRESETS, lora_config, sites
from tests.pure.adapt.peer import small_model


def test_presets_are_in_order_of_their_number_of_parameters() -> None:
    _, base = small_model()
    sizes = []
    for name in PRESETS:
        found = sites(base, lora_config(name))
        sizes.append(sum(site.rank * sum(site.shape) for site in found.values()))
    assert sizes == sorted(sizes)
    assert list(PRESETS) == ["conservative", "balanced", "aggressive"]


def test_a_target_name_selects_every_layer_and_a_path_one_layer() -> None:
    _, base = small_model()
    assert list(sites(base, lora_config("balanced", targets=("q", "layers/1/feedforward/*")))) == [
        "layers/0/attention/q",
        "layers/1/attention/q",
        "layers/1/feedforward/up",
        "layers/1/feedforward/down",
        "layers/1/feedforward/gate",
    ]


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of conservative, balanced, aggressive, got 'big'"):
        lora_config("big")
