"""Configuration of a model: one frozen, hashable, validated dataclass, and presets by name.

Fields have the names of Hugging Face's `config.json`. Numbers that change during a run (a learning rate, a
temperature) are not configuration.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pure.number import is_int

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
MAX_LAYERS, MAX_HEAD_DIM, MAX_SIZE = 10_000, 1 << 16, (1 << 31) - 1
"""Upper limits of layers, head width and other sizes: a damaged file could ask for an unlimited model."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Scaling of rotary frequencies for contexts longer than in pretraining.

    Args:
        rope_type: "default" (no scaling), "linear", "llama3" or "yarn".
        factor: new context length over that of pretraining, >= 1.
        original_max_position_embeddings: context of pretraining, tokens; llama3 and yarn need it.
        low_freq_factor, high_freq_factor: llama3: wavelengths longer than context/low are scaled by `factor`,
            those shorter than context/high are not, those between are blended.
        beta_fast, beta_slow: yarn: rotations within the context of pretraining: frequencies with more than
            beta_fast are not scaled, those with fewer than beta_slow are scaled by `factor`.
        attention_factor: yarn: factor of cos and sin; None means 0.1 ln(factor) + 1.
    """

    rope_type: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        _check_one_of("rope_scaling.rope_type", self.rope_type, ROPE_TYPES)
        for name in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            _check_number(f"rope_scaling.{name}", getattr(self, name))
        if not self.factor >= 1:
            raise ValueError(
                f"rope_scaling.factor: expected at least 1, got {self.factor}; it is the new context length "
                "over that of pretraining"
            )
        if self.rope_type == "default" and self.factor != 1:
            raise ValueError(
                f"rope_scaling: factor {self.factor} needs a rope_type: 'linear', 'llama3' or 'yarn'"
            )
        original = self.original_max_position_embeddings
        if original is None:
            valid = self.rope_type not in ("llama3", "yarn")
        else:
            valid = is_int(original) and 0 < original <= MAX_SIZE
        if not valid:
            raise ValueError(
                f"rope_scaling: {self.rope_type} needs original_max_position_embeddings, the context length "
                f"of pretraining in tokens; got {original}"
            )
        if self.rope_type == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"rope_scaling: llama3 needs 0 < low_freq_factor < high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}; Llama 3 uses 1 and 4"
            )
        if self.rope_type == "yarn" and not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"rope_scaling: yarn needs 0 < beta_slow < beta_fast (the paper: 1 and 32), got "
                f"{self.beta_slow} and {self.beta_fast}"
            )
        factor = self.attention_factor
        if factor is not None and not _check_number("rope_scaling.attention_factor", factor) > 0:
            raise ValueError(f"rope_scaling.attention_factor: expected a number above 0, got {factor}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configuration of a decoder-only transformer, which covers GPT-2, Llama, Qwen2 and Qwen3.

    Args:
        vocab_size: V, token ids are 0 .. V-1.
        hidden_size: D, width of the residual stream.
        intermediate_size: width inside the feed-forward block.
        num_hidden_layers: number of layers.
        num_attention_heads: N query heads.
        num_key_value_heads: K heads of keys and values; K = N is multi-head, K < N grouped-query, K = 1
            multi-query.
        head_dim: H, width of a head; None means hidden_size / num_attention_heads.
        max_position_embeddings: longest sequence, tokens.
        rope_theta: base of the rotary wavelengths.
        rope_scaling: a RopeScaling, or None.
        rms_norm_eps: added to the mean square before the root (both kinds of norm).
        attention_dropout: dropout rate of attention weights in training, in [0, 1).
        hidden_dropout: dropout rate of the outputs of attention and feed-forward in training, in [0, 1).
        hidden_act: "silu", "gelu" (exact), "gelu_tanh" or "relu".
        use_rms_norm: RMSNorm, otherwise LayerNorm.
        use_rope: rotary positions, otherwise sinusoidal ones added to the embeddings.
        use_swiglu: gated feed-forward (silu gives SwiGLU, gelu GeGLU); False is the ungated MLP of GPT-2.
        qk_norm: RMSNorm over each head's queries and keys before the rotation, as Qwen3.
        attention_bias: True puts biases on q, k, v and o (Llama's flag), "qkv" on all but o (Qwen2).
        mlp_bias: biases in the feed-forward block.
        tie_word_embeddings: the embedding is also the output head.
        initializer_range: standard deviation of the initial weights.
        bos_token_id, eos_token_id, pad_token_id: ids, or None.

    Raises:
        ValueError: for a value out of range, or values that contradict each other; it names the field and the
            fix.

    Example:
        >>> config = ModelConfig(vocab_size=64, hidden_size=32, num_attention_heads=4, num_key_value_heads=2)
        >>> config.head_dim
        8
    """

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int | None = None
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    hidden_act: str = "silu"
    use_rms_norm: bool = True
    use_rope: bool = True
    use_swiglu: bool = True
    qk_norm: bool = False
    attention_bias: bool | str = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads != 0:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                    f"{self.num_attention_heads}: choose a multiple, or give head_dim"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        _check_heads(self)
        _check_choices(self)


def preset(name: str, **changes: Any) -> ModelConfig:
    """Returns a configuration by name.

    `tiny_config` is the model of the demo; the others have the shapes of published models, except
    `qwen3_0.5b`, which is our own.

    Args:
        name: one of PRESETS.
        changes: fields with other values, `preset("tiny_config", num_hidden_layers=2)`.

    Raises:
        ValueError: for an unknown name; it lists the names.

    Example:
        >>> preset("smollm2_135m").num_hidden_layers
        30
    """
    if name not in PRESETS:
        hint = "; for a configuration of your own write a JSON file" if name.endswith(".py") else ""
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {name!r}{hint}")
    return from_dict({**PRESETS[name], **changes})


def from_dict(fields: Mapping[str, Any]) -> ModelConfig:
    """Builds a ModelConfig from JSON values; unknown fields are refused.

    Raises:
        ValueError: for unknown fields (with the nearest name) or values that ModelConfig refuses.

    Example:
        >>> from_dict({"vocab_size": 100}).vocab_size
        100
    """
    values = dict(fields)
    scaling = values.get("rope_scaling")
    if isinstance(scaling, Mapping):
        values["rope_scaling"] = RopeScaling(**_check_fields(RopeScaling, scaling, "rope_scaling"))
    return ModelConfig(**_check_fields(ModelConfig, values, "ModelConfig"))


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """Inverts `from_dict`: JSON values, with every field."""
    return dataclasses.asdict(config)


def _check_fields(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Refuses fields that `kind` does not have."""
    names = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name in names:
            continue
        near = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(names)}"
        raise ValueError(f"{where}: unknown field {name!r}; {hint}")
    return dict(values)


def _check_one_of(name: str, value: Any, allowed: tuple) -> None:
    """Refuses a value that is not in the list."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def _check_number(name: str, value: Any) -> float:
    """Refuses anything but a number, such as the "0.1" of a JSON file, and numbers too large for a model."""
    if not (is_int(value) or isinstance(value, float)) or not abs(value) < 1e18:
        raise ValueError(f"{name}: expected a number below 1e18, got {str(value)[:60]!r}")
    return value


def _check_sizes(config: ModelConfig) -> None:
    """Refuses sizes that are not positive ints, rates outside [0, 1), floats that are not positive."""
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    ):
        value = getattr(config, name)
        if not is_int(value) or value < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        limit = MAX_LAYERS if name == "num_hidden_layers" else MAX_SIZE
        if value > limit:
            raise ValueError(f"{name}: expected at most {limit:,}, got {value:,}")
    for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
        if not _check_number(name, getattr(config, name)) > 0:
            raise ValueError(f"{name}: expected a number above 0, got {getattr(config, name)!r}")
    for name in ("attention_dropout", "hidden_dropout"):
        if not 0 <= _check_number(name, getattr(config, name)) < 1:
            raise ValueError(
                f"{name}: expected a rate in [0, 1), got {getattr(config, name)!r}; 0 disables it"
            )


def _check_heads(config: ModelConfig) -> None:
    """Refuses query heads that are no multiple of key-value heads, and odd widths of positions."""
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim or 0
    if not is_int(head_dim) or head_dim < 1:
        raise ValueError(f"head_dim: expected a whole number of at least 1, or None, got {config.head_dim!r}")
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim: expected at most {MAX_HEAD_DIM:,}, got {head_dim:,}")
    if heads % kv_heads != 0:
        raise ValueError(
            f"num_attention_heads {heads} is not divisible by num_key_value_heads {kv_heads}: each key-value "
            "head serves a whole number of query heads"
        )
    if config.use_rope and head_dim % 2 != 0:
        raise ValueError(f"head_dim: rotary positions rotate pairs, so it must be even, got {head_dim}")
    if not config.use_rope and config.hidden_size % 2 != 0:
        raise ValueError(
            f"hidden_size: sinusoidal positions come in pairs: it must be even, got {config.hidden_size}"
        )


def _check_choices(config: ModelConfig) -> None:
    """Refuses unknown names, flags that contradict each other, and ids outside the vocabulary."""
    _check_one_of("hidden_act", config.hidden_act, ACTIVATIONS)
    for name in ("use_rms_norm", "use_rope", "use_swiglu", "qk_norm", "mlp_bias", "tie_word_embeddings"):
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name}: expected true or false, got {getattr(config, name)!r}")
    if not isinstance(config.attention_bias, bool) and config.attention_bias != "qkv":
        raise ValueError(
            f"attention_bias: expected True, False or 'qkv' (no bias on o), got {config.attention_bias!r}"
        )
    if config.rope_scaling is not None and not isinstance(config.rope_scaling, RopeScaling):
        raise ValueError(f"rope_scaling: expected a RopeScaling or None, got {config.rope_scaling!r}")
    if config.rope_scaling is not None and not config.use_rope:
        raise ValueError("rope_scaling: use_rope is False, so there is nothing to scale; drop one of the two")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        if value is not None and not (is_int(value) and 0 <= value < config.vocab_size):
            raise ValueError(
                f"{name}: expected an id below vocab_size {config.vocab_size} or None, got {value!r}"
            )


_LLAMA_32_ROPE: Mapping[str, Any] = {
    "rope_type": "llama3",
    "factor": 32.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny_config": {
        "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 1024,
    },
    "qwen3_0.5b": {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        "rope_theta": 1e6, "qk_norm": True, "eos_token_id": 151645, "pad_token_id": 151643,
    },
    "smollm2_135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "rope_theta": 1e5, "rms_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 0,
    },
    "qwen2.5_0.5b": {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        "rope_theta": 1e6, "attention_bias": "qkv", "bos_token_id": 151643, "eos_token_id": 151643,
    },
    "qwen3_0.6b": {
        "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 40960, "rope_theta": 1e6, "qk_norm": True, "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "llama3.2_1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "max_position_embeddings": 131072, "rope_theta": 5e5, "rms_norm_eps": 1e-5,
        "rope_scaling": _LLAMA_32_ROPE, "bos_token_id": 128000, "eos_token_id": 128001,
    },
}  # fmt: skip
