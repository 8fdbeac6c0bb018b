"""Reading of the fields of adapter_config.json: each is applied, has no effect, or is refused by name.

`peft_targets` applies them to the names of modules. No files are read here.

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
"""Fields without effect on the result of trained adapters of linear layers (the reader uses the revision)."""

READ = (
    "peft_type", "task_type", "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias",
    "modules_to_save", "trainable_token_indices", "init_lora_weights", "ensure_weight_tying",
)  # fmt: skip
"""Fields that are read below."""

DEFAULT_TARGETS = ("q_proj", "v_proj")
"""PEFT's target_modules for Llama, Qwen2 and Qwen3 where the field is null."""

HARMLESS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that do not change the base."""

LOST: Mapping[str, str] = {
    "pissa_niter": "its initial values were random, and PEFT itself draws others when it loads the file",
    "corda": "its initial values depend on data that the file does not have, and PEFT does not load it",
    "lora_ga": "its initial values depend on gradients that the file does not have, and PEFT itself loads it "
    "over another base",
    "loftq": "its base was quantised by LoftQ",
}
"""Initialisations that changed the base in a way that the file does not record."""

PATTERNS = 100_000
"""Largest number of characters of all patterns together."""


class AdapterFields(NamedTuple):
    """Parsed fields of adapter_config.json.

    Fields:
        r, lora_alpha: of a matrix that no pattern matches.
        target_modules, exclude_modules: endings of names, or one pattern of full names.
        all_linear: every linear layer except the head.
        layers_to_transform: numbers of layers, or None for all.
        layers_pattern: patterns of the list of layers, or empty for any.
        rank_pattern, alpha_pattern: (key, pattern, value), of which the first match is used.
        use_rslora, use_dora, lora_bias, ensure_weight_tying: as in PEFT.
        bias: "none", "all" or "lora_only".
        modules_to_save: (name, pattern) of modules that are stored completely.
        token_indices: {module's ending: its trained rows}.
        init: "", "pissa" or "olora": the initialisation, which PEFT subtracts from the base.
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
        fields: as PEFT writes them. An unknown field passes if it is null, false or empty.

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
            "target_modules is a text, and PEFT does not allow layers_to_transform or layers_pattern then"
        )
    if fields.get("layers_pattern") and layers is None:
        raise ValueError("layers_pattern is given without layers_to_transform; PEFT refuses that")
    return AdapterFields(
        r=_rank("r", fields.get("r", 8)),
        lora_alpha=_number("lora_alpha", fields.get("lora_alpha", 8)),
        target_modules=() if all_linear else _names("target_modules", targets),
        exclude_modules=_names("exclude_modules", fields.get("exclude_modules") or ()),
        all_linear=all_linear,
        layers_to_transform=_layers(layers),
        layers_pattern=_layer_patterns(fields.get("layers_pattern")),
        rank_pattern=_patterns("rank_pattern", fields.get("rank_pattern"), _rank),
        alpha_pattern=_patterns("alpha_pattern", fields.get("alpha_pattern"), _number),
        use_rslora=_flag("use_rslora", fields),
        use_dora=_flag("use_dora", fields),
        lora_bias=_flag("lora_bias", fields),
        ensure_weight_tying=_flag("ensure_weight_tying", fields),
        bias=_bias(fields.get("bias", "none")),
        modules_to_save=tuple(
            (name, _compiled("modules_to_save", rf"(^|.*\.){name}($|\..*)"))
            for name in _strings("modules_to_save", fields.get("modules_to_save") or ())
        ),
        token_indices=_token_indices(fields.get("trainable_token_indices")),
        init=_init(fields.get("init_lora_weights", True)),
    )


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Refuses another method, another task, and unsupported fields."""
    kind, task = fields.get("peft_type"), fields.get("task_type")
    if kind != "LORA":
        raise ValueError(
            f"peft_type {kind!r} is not supported, only 'LORA'; merge it into its base with PEFT, and save "
            "that"
        )
    if task not in (None, "CAUSAL_LM"):
        raise ValueError(f"task_type {task!r} is not supported, only 'CAUSAL_LM'")
    for name, value in fields.items():
        empty = value is None or value is False or (not value and not name.endswith("_config"))
        if name not in READ and name not in NO_EFFECT and not empty:
            raise ValueError(
                f"{name} {value!r:.80} is not supported; it would change what the adapter computes"
            )
    kinds = {"lora_dropout": (int, float), "fan_in_fan_out": bool, "inference_mode": bool, "revision": str}
    for name, allowed in kinds.items():
        if fields.get(name) is not None and not isinstance(fields[name], allowed):  # type: ignore[arg-type]
            raise ValueError(f"{name}: {fields[name]!r:.80} is of a wrong type")


def _init(value: Any) -> str:
    """Returns the initialisation that PEFT subtracts from the base, "" if none; refuses unknown ones."""
    if isinstance(value, bool) or value is None or value in HARMLESS:
        return ""
    name = value.lower() if isinstance(value, str) else ""
    if value == "pissa" or name == "olora":
        return name
    for start, why in LOST.items():
        if name.startswith(start):
            raise ValueError(
                f"init_lora_weights {value!r} changed the base, and {why}; save the adapter again with "
                "PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes it "
                "plain LoRA, or merge it"
            )
    raise ValueError(f"init_lora_weights {value!r:.80} is not known; it may have changed the base")


def _bias(value: Any) -> str:
    """Reads the kind of trained biases."""
    if value not in ("none", "all", "lora_only"):
        raise ValueError(f"bias: expected 'none', 'all' or 'lora_only', got {value!r:.80}")
    return value


def _flag(name: str, fields: Mapping[str, Any]) -> bool:
    """Reads a bool; null is false."""
    value = fields.get(name)
    if value not in (None, True, False) or not isinstance(value, bool | None):
        raise ValueError(f"{name}: expected true or false, got {value!r:.80}")
    return bool(value)


def _rank(name: str, value: Any) -> int:
    """Reads an int of at least 1."""
    if not is_int(value) or not 1 <= value < 2**31:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r:.80}")
    return value


def _number(name: str, value: Any) -> float:
    """Reads a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ValueError(f"{name}: expected a number, got {value!r:.80}")
    return float(value)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    """Reads a list of names."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{name}: expected a list of names, got {value!r:.80}")
    return tuple(value)


def _names(name: str, value: Any) -> tuple[str, ...] | bounded_regex.Pattern:
    """Reads a list of endings, or one pattern."""
    return _compiled(name, value) if isinstance(value, str) else _strings(name, value)


def _compiled(name: str, source: str) -> bounded_regex.Pattern:
    """Compiles a pattern; an error names the field."""
    try:
        return bounded_regex.compile(source)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _layers(value: Any) -> tuple[int, ...] | None:
    """Reads the number of a layer, or several."""
    if value is None:
        return None
    numbers = value if isinstance(value, list | tuple) else (value,)
    if not all(is_int(number) for number in numbers):
        raise ValueError(f"layers_to_transform: expected numbers of layers, got {value!r:.80}")
    return tuple(numbers) or None


def _layer_patterns(value: Any) -> tuple[bounded_regex.Pattern, ...]:
    """Reads patterns of the list of layers."""
    if isinstance(value, str) and value:
        value = (value,)
    names = _strings("layers_pattern", value or ())
    return tuple(_compiled("layers_pattern", rf"(?:^|.*?\.){name}\.(?P<idx>\d+)\.") for name in names)


def _patterns(
    name: str, value: Any, check: Callable[[str, Any], float]
) -> tuple[tuple[str, bounded_regex.Pattern, float], ...]:
    """Reads {pattern of a name: number}, in the file's order."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected names with their numbers, got {value!r:.80}")
    if sum(map(len, value)) > PATTERNS:
        raise ValueError(f"{name}: the names are longer than {PATTERNS:,} characters together")
    return tuple(
        (key, _compiled(name, rf"(.*\.)?({key})$"), check(f"{name}[{key!r:.60}]", x))
        for key, x in value.items()
    )


def _token_indices(value: Any) -> dict[str, tuple[int, ...]]:
    """Reads {module: its trained rows}; a list without names is of the embedding."""
    if value is None:
        return {}
    trained = value if isinstance(value, Mapping) else {"embed_tokens": value}
    indices = {}
    for name, rows in trained.items():
        ending = name.rsplit(".", 1)[-1]
        valid = isinstance(rows, list | tuple) and all(is_int(i) and i >= 0 for i in rows)
        if ending not in ("embed_tokens", "lm_head") or not valid:
            raise ValueError(
                f"trainable_token_indices: expected rows of embed_tokens or lm_head, got {name!r:.40}: "
                f"{rows!r:.80}"
            )
        indices[ending] = tuple(rows)
    return indices
