"""Flags out of range or in contradiction are refused by name, before any work."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.run.options import tuning as flags
from stages.run.options.pretrain import PretrainOptions, check_pretrain_flags


def check(options: Any) -> None:
    """Checks the flags of any training stage."""
    if isinstance(options, PretrainOptions):
        check_pretrain_flags(options)
    else:
        flags.check_tuning_flags(options)


GOOD = (
    PretrainOptions(),
    flags.SFTOptions(model_path="m"),
    flags.GRPOOptions(model_path="m"),
    flags.PPOOptions(model_path="m"),
)


@pytest.mark.parametrize("options", GOOD, ids=lambda options: type(options).__name__)
def test_the_defaults_are_accepted(options: object) -> None:
    check(options)


OUT_OF_RANGE = [
    ("learning_rate", math.nan), ("learning_rate", math.inf), ("learning_rate", -1.0), ("warmup", math.nan),
    ("final_learning_rate", -2.0), ("weight_decay", -0.1), ("max_grad_norm", -1.0), ("z_loss", math.inf),
    ("label_smoothing", 1.0), ("label_smoothing", math.nan), ("seed", 2**32), ("seed", -1), ("max_steps", 0),
    ("max_steps", 99999999999), ("save_every", -3), ("eval_every", -1), ("patience", -1), ("batch_size", 0),
    ("gradient_accumulation", 3), ("ema", 1.5), ("ema", math.nan),
]  # fmt: skip


WRONG_TYPES = [
    ("optimizer", "adam", "one of adamw, .*, got 'adam'"),
    ("schedule", "wave", "one of cosine, .*, got 'wave'"),
    ("variant", "ppo", "one of grpo, .*, got 'ppo'"),
    ("lora", "big", "one of conservative, balanced, aggressive or null, got 'big'"),
    ("batch_size", "4", "a whole number, got '4'"),
    ("batch_size", 4.5, "a whole number, got 4.5"),
    ("max_steps", True, "a whole number or null, got True"),
    ("learning_rate", "1e-4", "a number, got '1e-4'"),
    ("compile", "no", "true or false, got 'no'"),
    ("reward", "correct", "a list of text, got 'correct'"),
    ("output_dir", Path("run"), "text, got PosixPath"),
    ("model_path", None, "text, got None"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_TYPES, ids=str)
def test_a_value_of_another_type_from_python_is_refused_by_name(
    name: str, value: object, message: str
) -> None:
    """A dataclass takes any value, and a function given an unknown name may do something else."""
    with pytest.raises(ValueError, match=f"^--{name}: expected {message}"):
        check(replace(flags.GRPOOptions(model_path="m"), **{name: value}))


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_pretraining_flag_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^--{name}"):
        check(replace(PretrainOptions(), **{name: value}))


def test_patience_without_validations_is_refused() -> None:
    with pytest.raises(ValueError, match="--eval_every 0 makes none"):
        check(replace(PretrainOptions(), patience=2, eval_every=0))


GRPO, PPO = flags.GRPOOptions(model_path="m"), flags.PPOOptions(model_path="m")
DPO, SFT = flags.DPOOptions(model_path="m"), flags.SFTOptions(model_path="m")
# options, changed flags, expected message
REFUSED = (
    (GRPO, {"samples": 0}, "^--samples: expected at least 1"),
    (GRPO, {"samples": 1}, "^--samples 1: a group of one"),
    (GRPO, {"temperature": 0.0}, "^--temperature: expected a finite number above 0"),
    (GRPO, {"beta": -0.1}, "^--beta"),
    (GRPO, {"temperature": math.inf}, "^--temperature"), (GRPO, {"max_new_tokens": 0}, "^--max_new_tokens"),
    (GRPO, {"top_p": 0.0}, r"^--top_p: expected a probability in \(0, 1\]"),
    (PPO, {"top_p": 1.5}, "^--top_p"),
    (GRPO, {"top_k": 0}, "^--top_k"), (GRPO, {"iterations": 0}, "^--iterations"),
    (SFT, {"ema": 1.0}, "^--ema"),
    (SFT, {"examples": 0}, "^--examples"), (SFT, {"held_out": -1}, "^--held_out"),
    (SFT, {"lora_rank": 0}, "^--lora_rank"),
    (SFT, {"examples": 5, "data_path": "a.jsonl"}, "^--examples 5 is the number of generated rows, which"),
    (SFT, {"split": "test"}, "^--split test: the embedded data is one"),
    (GRPO, {"subset": "x"}, "^--subset x"),
    (PretrainOptions(), {"subset": "x"}, "^--subset x: the embedded data is one data set"),
    (SFT, {"lora_dropout": 1.0}, "^--lora_dropout"), (SFT, {"label_smoothing": 1.0}, "^--label_smoothing"),
    (SFT, {"patience": 2, "eval_every": 5, "held_out": 0}, "^--patience 2 needs validation rows"),
    (SFT, {"eval_every": 5, "held_out": 0}, "^--eval_every 5 needs validation rows"),
    (SFT, {"batch_size": 12, "gradient_accumulation": 8},
     "does not divide --batch_size 12.*accumulation 6 would"),
    (PPO, {"batch_size": 12, "minibatches": 5}, "^--minibatches 5 does not divide --batch_size 12"),
    (PPO, {"batch_size": 12, "minibatches": 4, "gradient_accumulation": 2},
     r"a minibatch \(--batch_size 12 / --minib"),
    (SFT, {"batch_size": 7, "noise_scale": True}, "^--noise_scale compares two halves of a batch, and --batch"),
    (PPO, {"batch_size": 12, "minibatches": 4, "noise_scale": True}, r"a minibatch \(.* of 3 has none"),
    (SFT, {"dp_noise": 1.0}, "^--dp_noise 1.0 is in units of --clip_per_sample, which is 0; set both"),
    (SFT, {"clip_per_sample": 1.0, "noise_scale": True}, "^--noise_scale and --clip_per_sample both compute"),
    (SFT, {"clip_per_sample": -1.0}, "^--clip_per_sample: expected a finite number, at least 0"),
    (PPO, {"target_kl": 0.1, "beta": 0.0}, "^--target_kl adapts --beta"), (PPO, {"epochs": 0}, "^--epochs"),
    (DPO, {"label_smoothing": 0.1}, "has no effect on --variant sigmoid"),
    (DPO, {"beta": 0.0}, "^--beta 0 makes the loss"),
    (DPO, {"label_smoothing": 0.5, "variant": "robust"}, r"share in \[0, 0.5\) for --variant robust"),
    (GRPO, {"reward_weights": (1.0, 2.0)}, r"^--reward_weights has 2 numbers for 1 reward \(correct\)"),
    (GRPO, {"reward_weights": (math.nan,)}, "finite numbers"),
    (GRPO, {"reward_weights": (0.0,)}, "not all of them 0"),
    (PretrainOptions(), {"held_out": 0.0}, "^--held_out: expected a share"),
)  # fmt: skip


@pytest.mark.parametrize(("options", "changes", "message"), REFUSED, ids=str)
def test_invalid_or_contradictory_flags_are_refused_in_one_line(
    options: Any, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(replace(options, **changes))
    assert len(str(caught.value).splitlines()) == 1


def test_consistent_flags_are_accepted() -> None:
    for options in (
        replace(PPO, batch_size=12, minibatches=3, gradient_accumulation=2),
        replace(GRPO, reward_weights=(-1.0,)),
        replace(DPO, variant="robust", label_smoothing=0.1),
        replace(DPO, variant="orpo", beta=0.0),
        replace(SFT, held_out=0),
        replace(GRPO, top_p=1.0, top_k=1, beta=0.0),
    ):
        check(options)
