"""PEFT's rules for names: which modules have an adapter, of what rank and scale, and which are stored whole.

Source: the rules of PEFT 0.21 for target_modules and the fields beside it.
"""

from __future__ import annotations

import math

from pure.interop import bounded_regex
from pure.interop.peft_config import AdapterFields


def targeted(fields: AdapterFields, module: str, *, linear: bool) -> bool:
    """Applies PEFT's rule for target_modules and the fields that narrow it.

    Args:
        fields: from `parse`.
        module: its name in transformers, "model.layers.0.self_attn.q_proj".
        linear: a linear layer of a block; False for the embedding and the head.

    Raises:
        ValueError: if a pattern cannot be evaluated; the field is named.
    """
    if _listed("exclude_modules", fields.exclude_modules, module):
        return False
    if saved(fields, module):
        return False
    if fields.all_linear:
        return linear
    if not _listed("target_modules", fields.target_modules, module):
        return False
    if not fields.layers_to_transform or isinstance(fields.target_modules, bounded_regex.Pattern):
        return True
    parts = module.split(".")
    if len(parts) < 4 or not parts[2].isdecimal():
        return False
    if fields.layers_pattern and not any(
        _matches("layers_pattern", p, module) for p in fields.layers_pattern
    ):
        return False
    return int(parts[2]) in fields.layers_to_transform


def saved(fields: AdapterFields, module: str) -> bool:
    """Reports if a module, or one that it belongs to, is stored whole."""
    return any(_matches("modules_to_save", found, module) for _, found in fields.modules_to_save)


def rank(fields: AdapterFields, module: str) -> int:
    """Returns the rank of a module's adapter."""
    return int(_first("rank_pattern", fields.rank_pattern, module, fields.r))


def scale(fields: AdapterFields, module: str) -> float:
    """Returns the factor of a module's B A: alpha / R, or alpha / √R for rank-stabilised adapters."""
    alpha, size = (
        _first("alpha_pattern", fields.alpha_pattern, module, fields.lora_alpha),
        rank(fields, module),
    )
    return alpha / (math.sqrt(size) if fields.use_rslora else size)


def _matches(name: str, found: bounded_regex.Pattern, module: str, *, whole: bool = False) -> bool:
    """A match; the field is named where the pattern cannot be evaluated."""
    try:
        return bounded_regex.fullmatch(found, module) if whole else bounded_regex.match(found, module)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _listed(name: str, names: tuple[str, ...] | bounded_regex.Pattern, module: str) -> bool:
    """PEFT's rule for a list of endings, or a pattern of the whole name."""
    if isinstance(names, bounded_regex.Pattern):
        return _matches(name, names, module, whole=True)
    return any(module == ending or module.endswith(f".{ending}") for ending in names)


def _first(
    name: str, patterns: tuple[tuple[str, bounded_regex.Pattern, float], ...], module: str, default: float
) -> float:
    """The value of the first pattern that matches the end of the name."""
    for key, found, value in patterns:
        if (
            _ends(key, module)
            if key.replace("_", "").replace(".", "").isalnum()
            else _matches(name, found, module)
        ):
            return value
    return default


def _ends(key: str, module: str) -> bool:
    """The match of a key that has no operator but ".", any character: the quick way, as most are whole
    names."""
    end = module[len(module) - len(key) :] if len(key) <= len(module) else ""
    before = module[: len(module) - len(key)]
    return (
        len(end) == len(key)
        and before[-1:] in ("", ".")
        and all(a in (".", b) for a, b in zip(key, end, strict=True))
    )
