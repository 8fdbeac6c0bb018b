"""Dropout of a run after pretraining: which stages use it, and what is said where flags and stage do not
agree."""

from __future__ import annotations

from stages.run.options.tuning import DPOOptions, RewardOptions, SFTOptions, TuningOptions


def used(options: TuningOptions) -> bool:
    """Says whether the learner of a run drops out: in SFT; in reward and dpo if asked for; in grpo and ppo
    never.

    Example:
        >>> used(SFTOptions(model_path="m")), used(DPOOptions(model_path="m"))
        (True, False)
    """
    if isinstance(options, RewardOptions | DPOOptions):
        return not options.disable_dropout
    return isinstance(options, SFTOptions)


def stage_option(options: TuningOptions) -> dict[str, bool]:
    """The argument of the stages that have one."""
    if isinstance(options, RewardOptions | DPOOptions):
        return {"disable_dropout": options.disable_dropout}
    return {}


def refuse(options: TuningOptions) -> None:
    """Looks at --lora_dropout.

    Raises:
        ValueError: if it is above 0 where nothing is dropped out.
    """
    if options.lora_dropout and not used(options):
        optional = isinstance(options, RewardOptions | DPOOptions)
        hint = "add --no-disable_dropout" if optional else "the ratio to the policy that drew would not be 1"
        raise ValueError(
            f"--lora_dropout {options.lora_dropout}: this stage learns without dropout ({hint}); leave it out"
        )


def told(options: TuningOptions, dropout: float) -> str:
    """Says, at the end of a line about adapters, that the dropout of their preset has no effect, where it has
    none."""
    return (
        f"; this stage learns without dropout, so theirs, {dropout}, has no effect"
        if dropout and not used(options)
        else ""
    )
