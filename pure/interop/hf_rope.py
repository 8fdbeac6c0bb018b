"""Rotary settings of a Hugging Face config.json, both ways.

transformers 5 writes one object, `rope_parameters`; transformers 4 reads `rope_theta` and `rope_scaling`.
Both are read here, and both are written, so that no reader loses a scaling without a word.
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
"""What each kind of scaling computes with."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""What transformers has no default for."""

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
"""Fields that transformers passes over where the kind does not compute with them."""

ORIGINAL = "original_max_position_embeddings"


def read(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the rotary settings as transformers 5 does.

    `rope_scaling` counts before `rope_parameters`; `rope_theta` inside counts before the one outside; a
    context of the first training that is not given is max_position_embeddings.

    Args:
        fields: of config.json.

    Returns:
        {"rope_theta": float} and, where positions are scaled, "rope_scaling": fields of a RopeScaling.

    Raises:
        ValueError: for a kind or a field that would change the mathematics and is not known here, for two
            settings that contradict each other, or for what is missing; it names the field.

    Example:
        >>> read({"rope_theta": 5000, "rope_scaling": {"type": "linear", "factor": 2}})
        {'rope_theta': 5000.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 2}}
    """
    name = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    rope = _chosen(fields, name)
    theta = rope.pop("rope_theta", fields.get("rope_theta", 10000.0))
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not abs(theta) < 1e18:
        raise ValueError(f"rope_theta: expected a number, got {str(theta)[:60]!r}")
    kind = _kind(rope, name)
    for key, value in (("partial_rotary_factor", 1.0), ("truncate", True)):
        if rope.pop(key, value) not in (None, value):
            raise ValueError(f"{name}.{key}: only {value} is supported")
    if unknown := [
        key for key, value in rope.items() if key not in (*UNUSED, *USED[kind]) and value is not None
    ]:
        raise ValueError(
            f"{name}.{unknown[0]} is not understood for rope_type {kind!r}; expected a Llama's or Qwen's"
        )
    if kind == "default" and rope.get("factor") not in (None, 1.0):
        raise ValueError(
            f"{name}: factor {rope['factor']!r} without a rope_type; write rope_type 'linear', 'llama3' or 'yarn'"
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
    told = {"rope_type": kind, **{name: value for name, value in values.items() if value is not None}}
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": told if kind != "default" else None,
        "rope_parameters": {"rope_theta": config.rope_theta, **told},
    }


def _chosen(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object that counts; another one beside it must say the same."""
    rope = fields.get(name) or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"{name}: expected an object, got {rope!r}")
    other = fields.get("rope_parameters") or {}
    if name == "rope_scaling" and isinstance(other, Mapping):
        differ = [key for key in rope if key in other and key != "type" and other[key] != rope[key]]
        if differ:
            raise ValueError(
                f"rope_scaling.{differ[0]} is {rope[differ[0]]!r}, rope_parameters.{differ[0]} {other[differ[0]]!r}; "
                "remove the one that is wrong"
            )
    return dict(rope)


def _kind(rope: dict[str, Any], name: str) -> str:
    """Takes the kind out, by its new or its old field."""
    old = rope.pop("type", None)
    kind = rope.pop("rope_type", None) or old or "default"
    if old not in (None, kind):
        raise ValueError(f"{name}: rope_type is {kind!r}, type {old!r}; remove the one that is wrong")
    if not isinstance(kind, str) or kind not in USED:
        raise ValueError(f"{name}.rope_type: expected one of {', '.join(USED)}, got {kind!r}")
    return kind


def _scaling(fields: Mapping[str, Any], rope: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    """The fields of a RopeScaling."""
    values = {key: rope[key] for key in USED[kind] if rope.get(key) is not None}
    if ORIGINAL in USED[kind]:
        outside, inside = fields.get(ORIGINAL), rope.get(ORIGINAL)
        if None not in (outside, inside) and outside != inside:
            raise ValueError(
                f"{ORIGINAL} is {outside!r}, {name}.{ORIGINAL} {inside!r}; remove the one that is wrong"
            )
        found = outside if outside is not None else inside
        values[ORIGINAL] = found if found is not None else fields.get("max_position_embeddings")
    if missing := [key for key in NEEDED[kind] if key not in values]:
        raise ValueError(f"{name}.{missing[0]} is missing; {kind} has no default for it")
    if (
        kind == "yarn"
        and "attention_factor" not in values
        and rope.get("mscale")
        and rope.get("mscale_all_dim")
    ):
        values["attention_factor"] = _mscale(values["factor"], rope, name)
    return {"rope_type": kind, **values}


def _mscale(factor: Any, rope: Mapping[str, Any], name: str) -> float:
    """What yarn multiplies cos and sin by where both of its scales are given, as DeepSeek's code has it."""
    scales = []
    for key, value in (("factor", factor), *((key, rope[key]) for key in ("mscale", "mscale_all_dim"))):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
            raise ValueError(f"{name}.{key}: expected a number above 0, got {value!r}")
        scales.append(1.0 if factor <= 1 else 0.1 * value * math.log(factor) + 1.0)
    return scales[1] / scales[2]
