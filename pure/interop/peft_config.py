"""Parse adapter_config.json: each field is applied, ignored as it has no effect, or refused with an error.

`peft_targets` applies the parsed fields to module names. No files are read here.

Source: the fields of PEFT 0.21's LoraConfig.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pure.interop import bounded_regex
from pure.number import is_int

NO_EFFECT = frozenset((
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "megatron_core",
    "qalora_group_size", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "lora_dropout", "fan_in_fan_out",
))  # fmt: skip
"""Fields that do not change what a trained adapter of linear layers computes."""

READ = (
    "peft_type", "task_type", "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias",
    "modules_to_save", "trainable_token_indices", "init_lora_weights", "ensure_weight_tying",
)  # fmt: skip
"""Fields that are read below."""

DEFAULT_TARGETS = ("q_proj", "v_proj")
"""PEFT's target_modules for Llama, Qwen2 and Qwen3 where the field is null."""

BASE_PRESERVING_INITS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that do not change the base."""

BASE_CHANGING_INITS: Mapping[str, str] = {
    "pissa_niter": "its initial values were random, and PEFT itself draws others when it loads the file",
    "corda": "its initial values depend on data that the file does not have, and PEFT does not load it",
    "lora_ga": "its initial values depend on gradients that the file does not have, and PEFT itself loads it "
    "over another base",
    "loftq": "its base was quantised by LoftQ",
}
"""Initialisations that changed the base in a way that the file does not record -> the reason."""

MAX_PATTERN_CHARACTERS = 100_000
"""Maximum total length of the patterns of one field."""


class AdapterFields(NamedTuple):
    """Parsed fields of adapter_config.json.

    Fields:
        r, lora_alpha: rank and alpha of modules that rank_pattern and alpha_pattern do not match.
        target_modules, exclude_modules: suffixes of module names, or one pattern for the full name.
        all_linear: target every linear layer except the head.
        layers_to_transform: layer indices, or None for all.
        layers_pattern: patterns of the name of the layer list ("layers"), or empty for any name.
        rank_pattern, alpha_pattern: (key, pattern, value); the first match is used.
        use_rslora, use_dora, lora_bias, ensure_weight_tying: as in PEFT.
        bias: "none", "all" or "lora_only".
        modules_to_save: (name, pattern) of modules that are stored as whole tensors.
        token_indices: {"embed_tokens" or "lm_head": its trained rows}.
        init: "pissa" or "olora" if the adapter's initial B A was subtracted from the base, else "".
    """

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | bounded_regex.Pattern
    exclude_modules: tuple[str, ...] | bounded_regex.Pattern
    all_linear: bool
    layers_to_transform: tuple[int, ...] | None
    layers_pattern: tuple[bounded_regex.Pattern, ...]
    rank_pattern: tuple[tuple[str, bounded_regex.Pattern, float], ...]
    alpha_pattern: tuple[tuple[str, bounded_regex.Pattern, float], ...]
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    ensure_weight_tying: bool
    bias: str
    modules_to_save: tuple[tuple[str, bounded_regex.Pattern], ...]
    token_indices: Mapping[str, tuple[int, ...]]
    init: str


def parse(fields: Mapping[str, Any]) -> AdapterFields:
    """Checks the fields of adapter_config.json.

    Args:
        fields: as PEFT writes them. An unknown field is accepted if it is null, false or empty.

    Returns:
        AdapterFields.

    Raises:
        ValueError: for a field that changes what the adapter computes and is not supported, or that has a
            wrong type; the field is named.
    """
    _refuse_unsupported(fields)
    targets = fields.get("target_modules")
    all_linear = isinstance(targets, str) and targets.lower() == "all-linear"
    if targets is None:
        targets = DEFAULT_TARGETS
    layers = fields.get("layers_to_transform")
    if isinstance(targets, str) and (layers is not None or fields.get("layers_pattern") is not None):
        raise ValueError(
            "target_modules is a string, and PEFT then refuses layers_to_transform and layers_pattern; make "
            "it a list of names, or remove these fields"
        )
    if fields.get("layers_pattern") and layers is None:
        raise ValueError("layers_pattern needs layers_to_transform, as in PEFT; set both or neither")
    return AdapterFields(
        r=_read_rank("r", fields.get("r", 8)),
        lora_alpha=_read_number("lora_alpha", fields.get("lora_alpha", 8)),
        target_modules=() if all_linear else _read_names("target_modules", targets),
        exclude_modules=_read_names("exclude_modules", fields.get("exclude_modules") or ()),
        all_linear=all_linear,
        layers_to_transform=_read_layers(layers),
        layers_pattern=_read_layer_patterns(fields.get("layers_pattern")),
        rank_pattern=_read_patterns("rank_pattern", fields.get("rank_pattern"), _read_rank),
        alpha_pattern=_read_patterns("alpha_pattern", fields.get("alpha_pattern"), _read_number),
        use_rslora=_read_flag("use_rslora", fields),
        use_dora=_read_flag("use_dora", fields),
        lora_bias=_read_flag("lora_bias", fields),
        ensure_weight_tying=_read_flag("ensure_weight_tying", fields),
        bias=_read_bias(fields.get("bias", "none")),
        modules_to_save=tuple(
            (name, _compile("modules_to_save", rf"(^|.*\.){name}($|\..*)"))
            for name in _read_strings("modules_to_save", fields.get("modules_to_save") or ())
        ),
        token_indices=_read_token_indices(fields.get("trainable_token_indices")),
        init=_read_init(fields.get("init_lora_weights", True)),
    )


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Refuses another method, another task, and unsupported fields."""
    kind, task = fields.get("peft_type"), fields.get("task_type")
    if kind != "LORA":
        raise ValueError(
            f"peft_type {kind!r} is not supported, only 'LORA'; merge it into its base with PEFT, and save "
            "the merged model"
        )
    if task not in (None, "CAUSAL_LM"):
        raise ValueError(f"task_type {task!r} is not supported, only 'CAUSAL_LM'")
    for name, value in fields.items():
        empty = value is None or value is False or (not value and not name.endswith("_config"))
        if name not in READ and name not in NO_EFFECT and not empty:
            raise ValueError(
                f"{name} {value!r:.80} is not supported; it would change what the adapter computes"
            )
    types: Mapping[str, tuple[str, tuple[type, ...]]] = {
        "lora_dropout": ("a number", (int, float)),
        "fan_in_fan_out": ("true or false", (bool,)),
        "inference_mode": ("true or false", (bool,)),
        "revision": ("a string", (str,)),
    }
    for name, (expected, allowed) in types.items():
        if fields.get(name) is not None and not isinstance(fields[name], allowed):
            raise ValueError(f"{name}: expected {expected}, got {fields[name]!r:.80}")


def _read_init(value: Any) -> str:
    """Reads `init` of AdapterFields; refuses initialisations that are unknown or changed the base."""
    if isinstance(value, bool) or value is None or value in BASE_PRESERVING_INITS:
        return ""
    name = value.lower() if isinstance(value, str) else ""
    if value == "pissa" or name == "olora":
        return name
    for start, reason in BASE_CHANGING_INITS.items():
        if name.startswith(start):
            raise ValueError(
                f"init_lora_weights {value!r} changed the base, and {reason}; save the adapter again with "
                "PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes it "
                "plain LoRA, or merge it"
            )
    raise ValueError(f"init_lora_weights {value!r:.80} is not known; it may have changed the base")


def _read_bias(value: Any) -> str:
    """Reads which biases are trained."""
    if value not in ("none", "all", "lora_only"):
        raise ValueError(f"bias: expected 'none', 'all' or 'lora_only', got {value!r:.80}")
    return value


def _read_flag(name: str, fields: Mapping[str, Any]) -> bool:
    """Reads a bool; null is false."""
    value = fields.get(name)
    if value not in (None, True, False) or not isinstance(value, bool | None):
        raise ValueError(f"{name}: expected true or false, got {value!r:.80}")
    return bool(value)


def _read_rank(name: str, value: Any) -> int:
    """Reads an int of at least 1."""
    if not is_int(value) or not 1 <= value < 2**31:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r:.80}")
    return value


def _read_number(name: str, value: Any) -> float:
    """Reads a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ValueError(f"{name}: expected a number, got {value!r:.80}")
    return float(value)


def _read_strings(name: str, value: Any) -> tuple[str, ...]:
    """Reads a list of names."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{name}: expected a list of names, got {value!r:.80}")
    return tuple(value)


def _read_names(name: str, value: Any) -> tuple[str, ...] | bounded_regex.Pattern:
    """Reads a list of name suffixes, or one pattern."""
    return _compile(name, value) if isinstance(value, str) else _read_strings(name, value)


def _compile(name: str, source: str) -> bounded_regex.Pattern:
    """Compiles a pattern; an error names the field."""
    try:
        return bounded_regex.compile(source)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _read_layers(value: Any) -> tuple[int, ...] | None:
    """Reads one layer index or several."""
    if value is None:
        return None
    numbers = value if isinstance(value, list | tuple) else (value,)
    if not all(is_int(number) for number in numbers):
        raise ValueError(f"layers_to_transform: expected layer indices, got {value!r:.80}")
    return tuple(numbers) or None


def _read_layer_patterns(value: Any) -> tuple[bounded_regex.Pattern, ...]:
    """Reads one pattern or several for the name of the layer list."""
    if isinstance(value, str) and value:
        value = (value,)
    names = _read_strings("layers_pattern", value or ())
    return tuple(_compile("layers_pattern", rf"(?:^|.*?\.){name}\.(?P<idx>\d+)\.") for name in names)


def _read_patterns(
    name: str, value: Any, check: Callable[[str, Any], float]
) -> tuple[tuple[str, bounded_regex.Pattern, float], ...]:
    """Reads {pattern of a module name: number}, in the file's order."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected an object {{name: number}}, got {value!r:.80}")
    characters = sum(map(len, value))
    if characters > MAX_PATTERN_CHARACTERS:
        raise ValueError(
            f"{name}: expected names of at most {MAX_PATTERN_CHARACTERS:,} characters in total, got "
            f"{characters:,}"
        )
    return tuple(
        (key, _compile(name, rf"(.*\.)?({key})$"), check(f"{name}[{key!r:.60}]", x))
        for key, x in value.items()
    )


def _read_token_indices(value: Any) -> dict[str, tuple[int, ...]]:
    """Reads {module: its trained rows}; a plain list means rows of the embedding."""
    if value is None:
        return {}
    trained = value if isinstance(value, Mapping) else {"embed_tokens": value}
    indices = {}
    for name, rows in trained.items():
        suffix = name.rsplit(".", 1)[-1]
        valid = isinstance(rows, list | tuple) and all(is_int(i) and i >= 0 for i in rows)
        if suffix not in ("embed_tokens", "lm_head") or not valid:
            raise ValueError(
                f"trainable_token_indices: expected rows of embed_tokens or lm_head, got {name!r:.40}: "
                f"{rows!r:.80}"
            )
        indices[suffix] = tuple(rows)
    return indices
