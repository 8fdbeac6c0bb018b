"""Read the flags of adapters: their configuration, and whether the stage uses their dropout."""

from __future__ import annotations

from typing import Any

from pure.adapt.lora_config import LoRAConfig, lora_config
from pure.interop import peft
from stages.run.options.tuning import AdapterFlags, PreferenceOptions, SFTOptions, TuningOptions


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


def uses_dropout(options: TuningOptions) -> bool:
    """Tells whether a stage trains with dropout: SFT does, preference stages on request, GRPO and PPO never.

    Example:
        >>> uses_dropout(SFTOptions(model_path="m")), uses_dropout(PreferenceOptions(model_path="m"))
        (True, False)
    """
    if isinstance(options, PreferenceOptions):
        return not options.disable_dropout
    return isinstance(options, SFTOptions)


def check_dropout(options: TuningOptions) -> None:
    """Refuses a --lora_dropout that has no effect.

    Args:
        options: the flags.

    Raises:
        ValueError: if it is above 0 and the stage trains without dropout.
    """
    if options.lora_dropout and not uses_dropout(options):
        hint = "the ratio to the behaviour policy would not be 1"
        if isinstance(options, PreferenceOptions):
            hint = "add --no_disable_dropout"
        raise ValueError(
            f"--lora_dropout {options.lora_dropout}: this stage trains without dropout ({hint}); leave it out"
        )


def describe_idle_dropout(options: TuningOptions, dropout: float) -> str:
    """Returns a note that the dropout of the adapters' preset has no effect; "" if it has one, or is 0."""
    if not dropout or uses_dropout(options):
        return ""
    return f"; this stage trains without dropout, so their dropout of {dropout} has no effect"
