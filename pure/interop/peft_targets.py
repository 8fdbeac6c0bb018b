"""Match module names as PEFT does: modules that have an adapter, its rank and scale, and modules_to_save.

Source: the rules of PEFT 0.21 for target_modules and related fields.
"""

from __future__ import annotations

import math

from pure.interop import bounded_regex
from pure.interop.peft_config import AdapterFields


def is_targeted(fields: AdapterFields, module: str, *, linear: bool) -> bool:
    """Tests if a module has an adapter: target_modules and the fields that restrict it.

    Args:
        fields: from `parse`.
        module: its name in transformers, "model.layers.0.self_attn.q_proj".
        linear: whether it is a linear layer of a block; False for the embedding and the head.

    Raises:
        ValueError: if a pattern cannot be evaluated; the field is named.
    """
    if _selects("exclude_modules", fields.exclude_modules, module) or is_saved(fields, module):
        return False
    if fields.all_linear:
        return linear
    if not _selects("target_modules", fields.target_modules, module):
        return False
    if not fields.layers_to_transform or isinstance(fields.target_modules, bounded_regex.Pattern):
        return True
    parts = module.split(".")  # "model.layers.0.self_attn.q_proj": part 2 is the layer index
    if len(parts) < 4 or not parts[2].isdecimal():
        return False
    patterns = fields.layers_pattern
    if patterns and not any(_matches("layers_pattern", pattern, module) for pattern in patterns):
        return False
    return int(parts[2]) in fields.layers_to_transform


def is_saved(fields: AdapterFields, module: str) -> bool:
    """Tests if a module, or one that contains it, is in modules_to_save: stored as whole tensors."""
    return any(_matches("modules_to_save", pattern, module) for _, pattern in fields.modules_to_save)


def rank(fields: AdapterFields, module: str) -> int:
    """Returns the rank of a module's adapter."""
    return int(_first_match("rank_pattern", fields.rank_pattern, module, fields.r))


def scale(fields: AdapterFields, module: str) -> float:
    """Returns the factor of a module's B A: alpha / rank, or alpha / √rank with use_rslora."""
    alpha = _first_match("alpha_pattern", fields.alpha_pattern, module, fields.lora_alpha)
    size = rank(fields, module)
    return alpha / (math.sqrt(size) if fields.use_rslora else size)


def _matches(name: str, pattern: bounded_regex.Pattern, module: str, *, full: bool = False) -> bool:
    """Matches a pattern; an error names the field."""
    try:
        return bounded_regex.fullmatch(pattern, module) if full else bounded_regex.match(pattern, module)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _selects(name: str, names: tuple[str, ...] | bounded_regex.Pattern, module: str) -> bool:
    """Tests if a name has one of the suffixes, or matches the pattern of the full name."""
    if isinstance(names, bounded_regex.Pattern):
        return _matches(name, names, module, full=True)
    return any(module == suffix or module.endswith(f".{suffix}") for suffix in names)


def _first_match(
    name: str, patterns: tuple[tuple[str, bounded_regex.Pattern, float], ...], module: str, default: float
) -> float:
    """Returns the value of the first pattern that matches the end of the name, or the default."""
    for key, pattern, value in patterns:
        if key.replace("_", "").replace(".", "").isalnum():
            matches = _matches_end(key, module)
        else:
            matches = _matches(name, pattern, module)
        if matches:
            return value
    return default


def _matches_end(key: str, module: str) -> bool:
    """Matches a key whose only regular-expression operator is "." (any character), without a regex engine.

    Most keys are plain names, so this is the common and faster case.
    """
    if len(key) > len(module):
        return False
    split = len(module) - len(key)
    if module[:split][-1:] not in ("", "."):
        return False
    return all(a in (".", b) for a, b in zip(key, module[split:], strict=True))
