"""`pure.interop.hf_fields`: fields of config.json that are ignored or refused, compared with transformers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import transformers

from pure.interop import hf, hf_fields

CLASSES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "mistral": transformers.MistralConfig,
}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 128,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_an_absent_field_has_the_default_of_transformers(kind: str) -> None:
    ours, theirs = hf.from_hf_config({"model_type": kind, **SIZES}), CLASSES[kind](**SIZES)
    for name in hf.SHARED:
        if name != "head_dim" or hasattr(theirs, name):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_default_of_transformers_is_accepted_and_changes_nothing(kind: str) -> None:
    fields = {"model_type": kind, **SIZES}
    defaults = {
        f.name: f.default for f in dataclasses.fields(CLASSES[kind]) if f.default is not dataclasses.MISSING
    }
    plain = {
        name: value for name, value in defaults.items() if isinstance(value, bool | int | float | str | None)
    }
    assert len(plain) > 20
    assert hf.from_hf_config({**plain, **fields}) == hf.from_hf_config(fields)


def test_every_field_of_a_generation_config_is_accepted() -> None:
    names = transformers.GenerationConfig._get_default_generation_params()
    hf_fields.refuse_unknown(dict.fromkeys(names, "x"), ())


@pytest.mark.parametrize("value", [None, False, {}, [], ""])
def test_an_unknown_field_that_is_empty_is_accepted(value: Any) -> None:
    hf_fields.refuse_unknown({"use_mrope": value}, ())


@pytest.mark.parametrize("value", [True, 0, 0.0, 1, "no", [0], {"a": None}])
def test_an_unknown_field_that_is_not_empty_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="fields not understood: use_mrope; remove"):
        hf_fields.refuse_unknown({"use_mrope": value}, ())


@pytest.mark.parametrize("name", hf_fields.MUST_BE_TRUE)
@pytest.mark.parametrize("value", [None, False, 0, "true"])
def test_a_field_that_must_be_true_is_refused_otherwise(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} .* is not supported, only true"):
        hf_fields.refuse_unknown({name: value}, ())
    hf_fields.refuse_unknown({name: True}, ())


@pytest.mark.parametrize(
    ("kind", "fields", "refused"),
    [
        ("llama", {}, False),
        ("llama", {"sliding_window": 64}, True),
        ("llama", {"sliding_window": 64, "use_sliding_window": False}, False),
        ("mistral", {}, False),
        ("mistral", {"sliding_window": 4095}, True),
        ("mistral", {"sliding_window": None}, False),
        ("qwen2", {"sliding_window": 64}, False),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, False),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, True),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 1}, False),
        (
            "qwen3",
            {
                "sliding_window": 64,
                "use_sliding_window": True,
                "max_window_layers": 1,
                "layer_types": ["full_attention"] * 2,
            },
            False,
        ),
    ],
)
def test_a_sliding_window_is_refused_where_transformers_would_mask_tokens(
    kind: str, fields: dict[str, Any], refused: bool
) -> None:
    theirs = CLASSES[kind](**SIZES, **fields)
    layers = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 2
    if kind != "llama":  # LlamaConfig ignores a window, which we refuse
        window = theirs.sliding_window if "sliding_attention" in layers else None
        assert refused == (window is not None and window < SIZES["max_position_embeddings"])
    if refused:
        with pytest.raises(ValueError, match="sliding_window"):
            hf_fields.refuse_window(kind, {**SIZES, **fields})
    else:
        hf_fields.refuse_window(kind, {**SIZES, **fields})


def test_flags_and_token_ids_are_read() -> None:
    assert [hf_fields.flag({"a": value}, "a") for value in (True, False, None)] == [True, False, False]
    with pytest.raises(ValueError, match="a: expected true or false, got 1"):
        hf_fields.flag({"a": 1}, "a")
    ids = [hf_fields.token_id({"a": value}, "a", "llama") for value in (3, -1, None, [], [7, 8], [-1])]
    assert ids == [3, None, None, None, 7, None]
    assert hf_fields.token_id({}, "eos_token_id", "llama") == 2
