"""Read the flags of adapters: their configuration, and a note on dropout that has no effect."""

from __future__ import annotations

from typing import Any

from pure.adapt.lora_config import LoRAConfig, lora_config
from pure.interop import peft
from stages.run.options.tuning import AdapterFlags


def lora_config_of(flags: AdapterFlags) -> LoRAConfig | None:
    """Builds the configuration of the adapters from a preset and the flags that override it.

    Args:
        flags: the flags of the adapters.

    Returns:
        LoRAConfig; None if all weights are trained, without adapters.

    Raises:
        ValueError: if another flag of adapters is given without --lora or --qlora.
    """
    overrides: dict[str, Any] = {
        "rank": flags.lora_rank,
        "alpha": flags.lora_alpha,
        "targets": peft.from_peft_targets(flags.lora_targets) or None,
        "dropout": flags.lora_dropout,
        "use_rslora": flags.use_rslora or None,
        "use_dora": flags.use_dora or None,
    }
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if flags.lora or flags.qlora:
        return lora_config(flags.lora or "balanced", **overrides)
    if overrides:
        raise ValueError(
            f"flags of adapters ({', '.join(overrides)}) need --lora balanced or --qlora; give one"
        )
    return None


def describe_idle_dropout(rate: float, *, used: bool) -> str:
    """Returns a note that the dropout of the adapters' preset has no effect; "" if it has one, or is 0.

    Example:
        >>> describe_idle_dropout(0.05, used=False)
        '; this stage trains without dropout, so their dropout of 0.05 has no effect'
    """
    if not rate or used:
        return ""
    return f"; this stage trains without dropout, so their dropout of {rate} has no effect"
