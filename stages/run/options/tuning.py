"""Flags of the stages after pretraining: plain values, written to `config.json` and read back.

A new stage is a dataclass and a row in STAGES.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from pure.plural import count_noun
from stages.run.http_json import parse_address
from stages.run.options.base import (
    CrossEntropyFlags,
    OptimizerFlags,
    PathFlags,
    RunFlags,
    SampleFlags,
    TrainOptions,
    check_halves,
    check_micro_batches,
    check_training_flags,
)
from stages.run.options.groups import ChatModelFlags, NewTokensFlags, SamplingFlags, defaults
from stages.run.options.ranges import Above, AtLeast, Within, check_values

EXAMPLES = 8000
"""Rows that are generated unless --examples says otherwise."""

AdapterSize = Literal["conservative", "balanced", "aggressive"]


@dataclass(frozen=True, kw_only=True)
class AdapterFlags:
    """Adapters: LoRA, QLoRA, DoRA."""

    lora: AdapterSize | None = None
    """Train LoRA adapters of this size and freeze the model; final_model then holds the adapters in PEFT's
    format, joined with those at --model_path, if there are any."""
    qlora: bool = False
    """Train LoRA adapters on a base model quantized to four bits (NF4)."""
    lora_rank: Annotated[int | None, AtLeast(1)] = None
    """LoRA rank, the number of rows of A; None takes the preset's, as for the next three flags."""
    lora_alpha: Annotated[float | None, Above(0)] = None
    """LoRA alpha; the factor alpha / rank scales the adapters."""
    lora_targets: tuple[str, ...] = ()
    """Matrices with adapters: names such as q v, patterns of paths, or PEFT's names, such as q_proj, lm_head
    or all-linear."""
    lora_dropout: Annotated[float | None, Within("[0, 1)", "a share")] = None
    """Dropout rate of the adapters' inputs."""
    use_rslora: bool = False
    """Scale adapters by alpha / √rank (rsLoRA)."""
    use_dora: bool = False
    """Train the magnitude of each row separately from its direction (DoRA)."""


@dataclass(frozen=True, kw_only=True)
class BaseModelFlags(AdapterFlags, NewTokensFlags, ChatModelFlags):
    """The model to start from, with its template, new tokens and adapters."""


@dataclass(frozen=True, kw_only=True)
@defaults(output_dir="runs/tuned")
class TuningOptions(BaseModelFlags, TrainOptions, PathFlags, ChatModelFlags):
    """Flags of every stage after pretraining.

    PathFlags is named again so that --model_path, of the class after it, comes first in --help.
    """

    examples: Annotated[int, AtLeast(1)] = EXAMPLES
    """Number of generated rows (only with --data_path embedded)."""
    held_out: Annotated[int, AtLeast(0)] = 128
    """Number of validation rows, taken at even spacing; at most a fifth of the data."""


@dataclass(frozen=True, kw_only=True)
@defaults(output_dir="runs/sft")
class SFTOptions(SampleFlags, CrossEntropyFlags, TuningOptions):
    """Fine-tune a model on conversations (SFT).

    Only the assistant's turns are trained.
    """

    packing: bool = True
    """Pack several conversations into a row, each attending to itself only; one that fits into a row is never
    cut."""


@dataclass(frozen=True, kw_only=True)
class PreferenceOptions(TuningOptions):
    """Flags of stages that train on preference pairs."""

    disable_dropout: bool = True
    """Disable dropout in the model and in adapters; a reference model never uses it."""


@dataclass(frozen=True, kw_only=True)
@defaults(output_dir="runs/reward")
class RewardOptions(PreferenceOptions):
    """Train a reward model on preference pairs."""

    center: Annotated[float, AtLeast(0)] = 0.01
    """Weight of the penalty that keeps the mean reward near 0."""


@dataclass(frozen=True, kw_only=True)
@defaults(output_dir="runs/dpo", learning_rate=1e-4)
class DPOOptions(SampleFlags, PreferenceOptions):
    """Train a model on preference pairs directly (DPO)."""

    beta: Annotated[float, AtLeast(0)] = 0.1
    """Weight of the KL penalty against the starting model; for simpo 2 is usual."""
    variant: Literal["sigmoid", "conservative", "robust", "ipo", "hinge", "simpo", "orpo"] = "sigmoid"
    """Loss; see pure/loss/dpo.py and pure/loss/orpo.py."""
    label_smoothing: Annotated[float, Within("[0, 1)", "a share")] = 0.0
    """Share of pairs whose label is assumed to be wrong (only with --variant conservative or robust)."""


@dataclass(frozen=True, kw_only=True)
@defaults(output_dir="runs/kto", learning_rate=1e-4)
class KTOOptions(SampleFlags, PreferenceOptions):
    """Train a model on single answers marked desirable or not (KTO).

    Rows have the columns prompt, completion and label, as in TRL. Generated rows (--data_path embedded) are
    the two answers of each generated preference pair: the chosen one is desirable, the rejected one is not.
    """

    beta: Annotated[float, Above(0)] = 0.1
    """Weight of the KL penalty against the starting model."""
    desirable_weight: Annotated[float, Above(0)] = 1.0
    """Weight of the losses of desirable answers."""
    undesirable_weight: Annotated[float, Above(0)] = 1.0
    """Weight of the losses of undesirable answers."""


@dataclass(frozen=True, kw_only=True)
class RewardFlags:
    """Rewards of completions."""

    reward: tuple[str, ...] = ("correct",)
    """Reward functions, whose weighted sum is the reward: "correct" (the completion is the row's column
    "answer"), FILE.py:FUNCTION with a function (prompt, completion, row) -> float or one of TRL's form,
    (prompts, completions, **columns) -> list, or the folder of a reward model."""
    reward_weights: tuple[float, ...] = ()
    """Weight of each reward in the sum, one number per reward; by default all are 1."""
    on_bad_reward: Literal["stop", "skip"] = "stop"
    """On a reward function that raises or returns no finite number: stop, or leave that reward out. None is
    no error: that reward does not apply, and the others count."""


@dataclass(frozen=True, kw_only=True)
class CompletionFlags(SamplingFlags):
    """Length and sampling of completions."""

    max_new_tokens: Annotated[int, AtLeast(1)] = 64
    """Maximum tokens of a completion."""
    temperature: Annotated[float, Above(0, "completions are to differ")] = 1.0
    """Sampling temperature, a factor that divides the logits."""
    top_k: Annotated[int | None, AtLeast(1)] = None
    """Sample from this many most likely tokens; None samples from all."""


@dataclass(frozen=True, kw_only=True)
class RolloutFlags:
    """A server that samples the completions."""

    rollout_server: str | None = None
    """Address of a vLLM server that samples the completions of training, such as http://localhost:8000,
    started on the model at --model_path with VLLM_SERVER_DEV_MODE=1 and --logprobs-mode processed_logprobs;
    None samples here, as validation always does. A key is read from the environment variable
    VLLM_API_KEY."""
    rollout_folder: str | None = None
    """Folder through which weights are sent to the server, which sees it under the same path, such as one in
    /dev/shm; None sends them by NCCL, which needs the package vllm here."""
    importance_cap: Annotated[float | None, Above(0)] = None
    """Largest importance weight, a factor on the loss of a token: its probability in training over that in
    sampling; None sets no weights. 2 is usual with --rollout_server."""


@dataclass(frozen=True, kw_only=True)
@defaults(learning_rate=1e-4)
class OnlineOptions(CompletionFlags, RewardFlags, RolloutFlags, SamplingFlags, TuningOptions):
    """Flags of stages that train on the model's own completions."""

    max_length: Annotated[int, AtLeast(1)] = 64
    """Maximum tokens of a prompt; longer ones are truncated from the left."""
    beta: Annotated[float, AtLeast(0)] = 0.02
    """KL coefficient: weight of the KL divergence from the starting model; 0 loads no reference model."""
    mask_truncated: bool = False
    """Leave completions that reach --max_new_tokens out of the loss; their rewards still count in the
    group."""
    table_every: Annotated[int, AtLeast(0)] = 10
    """Steps between tables of completions with their rewards, printed and written to completions.jsonl; 0
    disables the tables."""


@dataclass(frozen=True, kw_only=True)
@defaults(output_dir="runs/grpo")
class GRPOOptions(OnlineOptions):
    """Train a model on groups of its own completions and a reward (GRPO)."""

    samples: Annotated[int, AtLeast(1)] = 8
    """Number of completions per prompt (group size)."""
    kl: Literal["k1", "k2", "k3", "k3+"] = "k3+"
    """Estimator of the KL divergence; see pure/loss/kl.py."""
    variant: Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"] = "dapo"
    """Loss; see pure/loss/grpo.py."""
    scale: Literal["group", "batch", "none", "leave_one_out"] = "group"
    """Divide advantages by the standard deviation of the rewards in the group, in the batch, or not;
    leave_one_out takes the other completions' mean as the baseline."""
    iterations: Annotated[int, AtLeast(1)] = 1
    """Number of updates per batch of completions."""


@dataclass(frozen=True, kw_only=True)
@defaults(output_dir="runs/ppo", batch_size=128)
class PPOOptions(OnlineOptions):
    """Train a model on its own completions, a reward and a value function (PPO)."""

    target_kl: Annotated[float | None, Above(0)] = None
    """Target KL divergence, a number of nats per completion: --beta adapts to it; None keeps --beta fixed."""
    epochs: Annotated[int, AtLeast(1)] = 2
    """Number of times that each batch of completions is used."""
    minibatches: Annotated[int, AtLeast(1)] = 1
    """Number of minibatches per batch of completions."""
    value_weight: Annotated[float, AtLeast(0)] = 0.5
    """Weight of the value loss."""
    entropy_weight: Annotated[float, AtLeast(0)] = 0.0
    """Weight of the entropy bonus."""


STAGES: Mapping[str, type[TuningOptions]] = MappingProxyType(
    {
        "sft": SFTOptions,
        "reward": RewardOptions,
        "dpo": DPOOptions,
        "kto": KTOOptions,
        "grpo": GRPOOptions,
        "ppo": PPOOptions,
    }
)
"""Name of a stage -> its flags. The subcommands and config.json use these names."""


def stage_name(kind: type[TrainOptions]) -> str | None:
    """Returns the name in STAGES of a stage's flags; None is pretraining.

    Example:
        >>> stage_name(SFTOptions)
        'sft'
    """
    return next((name for name, stage in STAGES.items() if stage is kind), None)


def check_tuning_flags(options: TuningOptions) -> None:
    """Checks every flag of a stage after pretraining by itself, and those that depend on each other.

    Raises:
        ValueError: for a number out of range, two flags that contradict each other, or one without effect; it
            names the flags and the fix.
    """
    check_values(options)
    check_training_flags(options)
    for name, value in (("patience", options.patience), ("eval_every", options.eval_every)):
        if value and not options.held_out:
            raise ValueError(
                f"--{name} {value} needs validation rows, and --held_out 0 keeps none: raise --held_out, or "
                f"use --{name} 0"
            )
    if options.data_path != "embedded" and options.examples != EXAMPLES:
        raise ValueError(
            f"--examples {options.examples} is the number of generated rows, which --data_path "
            f"{options.data_path} does not use; remove it, or limit training with --max_steps"
        )
    if isinstance(options, PreferenceOptions) and options.disable_dropout:
        _refuse_dropout(options.lora_dropout, "add --no_disable_dropout")
    if isinstance(options, DPOOptions):
        _check_preference_loss(options.variant, options.label_smoothing, options.beta)
    if isinstance(options, KTOOptions) and options.batch_size < 2:
        raise ValueError(
            "--batch_size 1: the KL divergence is estimated from answers of other prompts in the batch, and "
            "there are none; take at least 2 (--gradient_accumulation saves memory)"
        )
    if isinstance(options, OnlineOptions):
        _refuse_dropout(options.lora_dropout, "the ratio to the behaviour policy would not be 1")
        _check_rewards(options.reward, options.reward_weights)
        _check_rollouts(options, options)
    if isinstance(options, GRPOOptions) and options.samples < 2:
        raise ValueError(
            "--samples 1: a group of one answer has nothing to be compared with, so that nothing is learned; "
            "take at least 2"
        )
    if isinstance(options, PPOOptions):
        _check_minibatches(options.batch_size, options.minibatches, options)
        if options.target_kl and not options.beta:
            raise ValueError(
                "--target_kl adapts --beta by factors, and 0 stays 0; begin with --beta 0.02, for instance"
            )


def check_held_out(flags: RunFlags, rows: int) -> None:
    """Checks that no flag needs validation rows; called when the data are too few to hold any out.

    Args:
        flags: patience and eval_every.
        rows: number of rows of the data, for the message.

    Raises:
        ValueError: if --patience or --eval_every asks for validation.
    """
    for name, value in (("patience", flags.patience), ("eval_every", flags.eval_every)):
        if value:
            raise ValueError(
                f"--{name} {value} needs held-out rows, and of {rows} rows none can be held out (at most a "
                f"fifth are): give more rows, or use --{name} 0"
            )


def _refuse_dropout(rate: float | None, hint: str) -> None:
    """Refuses a --lora_dropout above 0 for a stage that trains without dropout."""
    if rate:
        raise ValueError(f"--lora_dropout {rate}: this stage trains without dropout ({hint}); leave it out")


def _check_preference_loss(variant: str, smoothing: float, beta: float) -> None:
    """Checks the label smoothing and the β of a preference loss."""
    if smoothing and variant not in ("conservative", "robust"):
        raise ValueError(
            f"--label_smoothing {smoothing} has no effect on --variant {variant}; it is for conservative and "
            "robust"
        )
    if not smoothing < 0.5:
        raise ValueError(
            f"--label_smoothing: expected a share in [0, 0.5) for --variant {variant}, got {smoothing}"
        )
    if not beta and variant != "orpo":
        raise ValueError(
            f"--beta 0 makes the loss of --variant {variant} constant, so that nothing is learned; 0.1 is "
            "usual"
        )


def _check_rewards(rewards: Sequence[str], weights: Sequence[float]) -> None:
    """Checks the weights of the rewards."""
    if weights and len(weights) != len(rewards):
        raise ValueError(
            f"--reward_weights has {count_noun(len(weights), 'number')} for "
            f"{count_noun(len(rewards), 'reward')} ({' '.join(rewards)}); give one for each"
        )
    if weights and not (all(map(math.isfinite, weights)) and any(weights)):
        raise ValueError(
            f"--reward_weights {' '.join(map(str, weights))}: expected finite numbers, not all of them 0"
        )


def _check_rollouts(flags: RolloutFlags, sampling: CompletionFlags) -> None:
    """Checks the flags of a server that samples the completions."""
    if flags.rollout_server is None:
        if flags.rollout_folder is not None:
            raise ValueError(
                f"--rollout_folder {flags.rollout_folder} sends weights to a server, and there is none; add "
                "--rollout_server, or leave it out"
            )
        return
    try:
        parse_address(flags.rollout_server)
    except ValueError as error:
        raise ValueError(f"--rollout_server: {error}") from None
    altering = [name for name in ("top_k", "top_p") if getattr(sampling, name) is not None]
    if flags.importance_cap is not None and altering:
        raise ValueError(
            "--importance_cap compares the probabilities of sampler and trainer, and those of the server are "
            f"of its truncated distribution; leave out --{altering[0]}, or --importance_cap"
        )


def _check_minibatches(rows: int, count: int, flags: OptimizerFlags) -> None:
    """Checks that minibatches have one size, and are cut into equal micro-batches."""
    if rows % count:
        raise ValueError(f"--minibatches {count} does not divide --batch_size {rows}: they are of equal size")
    minibatch = f"a minibatch (--batch_size {rows} / --minibatches {count}) of"
    check_micro_batches(rows // count, minibatch, flags.gradient_accumulation)
    check_halves(rows // count, f"{minibatch} {rows // count}", flags)
