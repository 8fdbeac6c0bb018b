"""Rotary settings: what is written for transformers 4 and 5, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from pure.config import ModelConfig, from_dict
from pure.interop import hf_rope

SCALINGS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 256},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "attention_factor": 1.5},
)
ALLOWED = {
    "linear": {"rope_type", "factor"},
    "llama3": {"rope_type", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "yarn": {"rope_type", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
             "mscale", "mscale_all_dim", "truncate"},
}  # fmt: skip
"""What `rope_scaling` may hold in transformers 4.57 without a warning. It needs `rope_type` and reads theta
outside."""


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling["rope_type"] if scaling else "none")
def test_both_generations_of_transformers_find_the_scaling(scaling: dict[str, Any] | None) -> None:
    config = from_dict({"rope_scaling": scaling, "rope_theta": 5000.0})
    fields = hf_rope.write(config)
    assert fields["rope_theta"] == 5000.0
    if scaling is None:
        assert fields["rope_scaling"] is None
    else:
        written = fields["rope_scaling"]
        assert written["rope_type"] == scaling["rope_type"]
        assert {name: written[name] for name in scaling} == scaling
        assert set(written) <= ALLOWED[written["rope_type"]]
    theirs = transformers.LlamaConfig(max_position_embeddings=1024, **fields).rope_parameters
    assert theirs == fields["rope_parameters"]
    assert from_dict(hf_rope.read(fields)) == ModelConfig(rope_theta=5000.0, rope_scaling=config.rope_scaling)


def test_theta_inside_counts_before_the_one_outside() -> None:
    inside = {"rope_theta": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7}}
    assert hf_rope.read(inside) == {"rope_theta": 7.0}
    assert hf_rope.read({}) == {"rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_theta": None}, "rope_theta: expected a number, got 'None'"),
        ({"rope_theta": True}, "rope_theta: expected a number, got 'True'"),
        ({"rope_theta": 10**400}, "rope_theta: expected a number, got '1000"),
        ({"rope_scaling": [1]}, r"rope_scaling: expected an object, got \[1\]"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "rope_scaling.rope_type: expected one of"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2, "sections": 1}},
            "rope_scaling.sections is not",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": "4", "mscale": 1, "mscale_all_dim": 1}},
            "factor: expected",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
            "rope_parameters.full_attention is not",
        ),
    ],
)
def test_unsupported_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hf_rope.read({"max_position_embeddings": 64, **fields})
