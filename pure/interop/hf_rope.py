"""Conversion of the rotary settings of a Hugging Face config.json, in both directions.

transformers 5 writes one object, `rope_parameters`; transformers 4 reads `rope_theta` and `rope_scaling`.
Both are read and written here, so that no reader silently ignores a scaling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pure.config import ModelConfig

USED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"),
}
"""Fields that each kind of scaling uses."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""Fields for which transformers has no default."""

UNUSED = (
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "finetuned",
)
"""Fields that transformers ignores where the kind does not use them."""

ORIGINAL = "original_max_position_embeddings"


def read(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the rotary settings as transformers 5 does.

    `rope_scaling` takes precedence over `rope_parameters`, and a `rope_theta` in that object over the one
    outside it; original_max_position_embeddings defaults to max_position_embeddings.

    Args:
        fields: of config.json.

    Returns:
        {"rope_theta": float} and, where positions are scaled, "rope_scaling": fields of a RopeScaling.

    Raises:
        ValueError: for a kind or a field that would change the mathematics and is not supported, for settings
            that contradict each other, or for a missing field; it names the field.

    Example:
        >>> read({"rope_theta": 5000, "rope_scaling": {"type": "linear", "factor": 2}})
        {'rope_theta': 5000.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 2}}
    """
    name = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    rope = _settings(fields, name)
    theta = rope.pop("rope_theta", fields.get("rope_theta", 10000.0))
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not abs(theta) < 1e18:
        raise ValueError(f"rope_theta: expected a number, got {str(theta)[:60]!r}")
    kind = _kind(rope, name)
    for key, value in (("partial_rotary_factor", 1.0), ("truncate", True)):
        if rope.pop(key, value) not in (None, value):
            raise ValueError(f"{name}.{key}: only {value} is supported")
    for key, value in rope.items():
        if key not in (*UNUSED, *USED[kind]) and value is not None:
            raise ValueError(
                f"{name}.{key} is not understood for rope_type {kind!r}; expected one of "
                f"{', '.join((*USED[kind], 'rope_theta'))}"
            )
    if kind == "default" and rope.get("factor") not in (None, 1.0):
        raise ValueError(
            f"{name}: factor {rope['factor']!r} without a rope_type; write rope_type 'linear', 'llama3' or "
            "'yarn'"
        )
    if kind == "default":
        return {"rope_theta": float(theta)}
    return {"rope_theta": float(theta), "rope_scaling": _scaling(fields, rope, kind, name)}


def write(config: ModelConfig) -> dict[str, Any]:
    """Writes the rotary settings for transformers 5 and for transformers 4.

    Args:
        config: with rope_theta and rope_scaling.

    Returns:
        {"rope_theta", "rope_scaling", "rope_parameters"}; rope_scaling is None where nothing is scaled.

    Example:
        >>> write(ModelConfig(rope_theta=5000.0))["rope_parameters"]
        {'rope_theta': 5000.0, 'rope_type': 'default'}
    """
    scaling = config.rope_scaling
    kind = scaling.rope_type if scaling else "default"
    values = {name: getattr(scaling, name) for name in USED[kind]}
    fields = {"rope_type": kind, **{name: value for name, value in values.items() if value is not None}}
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": fields if kind != "default" else None,
        "rope_parameters": {"rope_theta": config.rope_theta, **fields},
    }


def _settings(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the object that takes precedence; the other one, if any, must agree with it."""
    rope = fields.get(name) or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"{name}: expected an object, got {rope!r}")
    other = fields.get("rope_parameters") or {}
    if name == "rope_scaling" and isinstance(other, Mapping):
        conflicts = [key for key in rope if key in other and key != "type" and other[key] != rope[key]]
        if conflicts:
            raise ValueError(
                f"rope_scaling.{conflicts[0]} is {rope[conflicts[0]]!r}, rope_parameters.{conflicts[0]} "
                f"{other[conflicts[0]]!r}; remove the one that is wrong"
            )
    return dict(rope)


def _kind(rope: dict[str, Any], name: str) -> str:
    """Removes and returns the kind, from its new or its old field."""
    old = rope.pop("type", None)
    kind = rope.pop("rope_type", None) or old or "default"
    if old not in (None, kind):
        raise ValueError(f"{name}: rope_type is {kind!r}, type {old!r}; remove the one that is wrong")
    if not isinstance(kind, str) or kind not in USED:
        raise ValueError(f"{name}.rope_type: expected one of {', '.join(USED)}, got {kind!r}")
    return kind


def _scaling(fields: Mapping[str, Any], rope: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    """Returns the fields of a RopeScaling."""
    values = {key: rope[key] for key in USED[kind] if rope.get(key) is not None}
    if ORIGINAL in USED[kind]:
        outside, inside = fields.get(ORIGINAL), rope.get(ORIGINAL)
        if None not in (outside, inside) and outside != inside:
            raise ValueError(
                f"{ORIGINAL} is {outside!r}, {name}.{ORIGINAL} {inside!r}; remove the one that is wrong"
            )
        contexts = (outside, inside, fields.get("max_position_embeddings"))
        values[ORIGINAL] = next((x for x in contexts if x is not None), None)
    if missing := [key for key in NEEDED[kind] if key not in values]:
        raise ValueError(f"{name}.{missing[0]} is missing; {kind} has no default for it")
    has_mscale = rope.get("mscale") and rope.get("mscale_all_dim")
    if kind == "yarn" and "attention_factor" not in values and has_mscale:
        values["attention_factor"] = _mscale(values["factor"], rope, name)
    return {"rope_type": kind, **values}


def _mscale(factor: Any, rope: Mapping[str, Any], name: str) -> float:
    """Computes yarn's factor of cos and sin from mscale and mscale_all_dim, as in DeepSeek's code."""
    scales = []
    for key, value in (("factor", factor), *((key, rope[key]) for key in ("mscale", "mscale_all_dim"))):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
            raise ValueError(f"{name}.{key}: expected a number above 0, got {value!r}")
        scales.append(1.0 if factor <= 1 else 0.1 * value * math.log(factor) + 1.0)
    return scales[1] / scales[2]
